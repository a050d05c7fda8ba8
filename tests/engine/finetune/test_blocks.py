import torch
from torch import nn

from snrmix.engine.finetune.blocks import checkpoint_blocks, last_block

SIZE = 16


def test_the_last_block_of_familiar_shapes():
    def layer(n=1):
        return nn.Sequential(*(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()) for _ in range(n)))

    class Residual(nn.Module):  # stages of several blocks, and a projection of two layers after them
        def __init__(self):
            super().__init__()
            self.stem, self.layer1, self.layer2 = nn.Conv2d(3, 4, 1), layer(5), layer(2)
            self.projection = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))

    model = Residual()
    assert last_block(model) is model.layer2[1]
    wrapped = nn.Sequential(nn.Conv2d(3, 3, 1), model)
    assert last_block(wrapped) is model.layer2[1]
    transformer = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 3, enable_nested_tensor=False
    )
    assert last_block(transformer) is transformer.layers[2]
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU())
    assert last_block(plain) is plain[2]


def test_checkpointing_keeps_less(fitted, TinyEncoder):
    """Of the blocks, only what goes in is saved for the backward pass."""

    def saved(encoder):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: (sizes.append(x.numel()), x)[1], lambda x: x):
            encoder(torch.rand(4, 3, SIZE, SIZE, requires_grad=True))
        return sum(sizes)

    wrapped = TinyEncoder()
    checkpoint_blocks(wrapped)
    assert saved(wrapped) < 0.7 * saved(TinyEncoder())


def test_models_that_know_checkpointing_are_asked(TinyEncoder):
    class Timm(TinyEncoder):
        asked = False

        def set_grad_checkpointing(self, enable=True):
            self.asked = enable

    model = Timm()
    checkpoint_blocks(model)
    assert model.asked and "forward" not in vars(model.blocks[0])
