"""From the user's object to plain arrays, and back."""
