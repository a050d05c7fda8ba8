"""Small networks on frozen features: one per fold, trained together."""
