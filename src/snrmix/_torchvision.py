from importlib.util import find_spec


def mend_torchvision() -> None:
    """Let a torchvision that was built for another torch be imported.

    Built for CUDA beside a torch for the CPU, it stops at its import because two of its operators are missing. Nothing
    here calls them, but Lightning and timm import torchvision.
    """
    if find_spec("torchvision") is None:
        return
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
