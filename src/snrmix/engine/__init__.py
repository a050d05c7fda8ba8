"""The method on plain arrays: numpy, scipy, scikit-learn, torch and Lightning only."""
