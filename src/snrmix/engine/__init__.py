"""The method on plain arrays: numpy, scipy, scikit-learn, torch and Lightning only."""

from snrmix._torchvision import mend_torchvision

mend_torchvision()  # before Lightning, which imports torchvision where it is installed
