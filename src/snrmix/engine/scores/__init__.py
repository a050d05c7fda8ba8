"""How good predictions are: baselines, scores, and what no prediction can explain."""
