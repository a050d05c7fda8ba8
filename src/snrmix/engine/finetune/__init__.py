"""Networks that are trained end to end on patches, from an encoder and a linear head."""
