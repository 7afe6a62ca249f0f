"""EfficientNet-Lite0 (Tan & Le 2019, its variant for small devices) as a tower that a LLaVA can read.

The layers are those of TensorFlow's release: inverted residuals without squeeze-and-excitation, ReLU6, ``SAME``
padding, which is asymmetric under a stride.  Not obvious is what a token of ours is: the map of 7 x 7 cells is
averaged into ``grid`` x ``grid`` cells, and each token holds its cell, the mean of the whole map (by which the network
was trained to tell classes) and which token it is.  So a projector, which sees one token at a time, knows the whole
picture, and may say another part of a name at every token.

Use: ``convert("efficientnet-lite0.pth", "runs/emoji/tower")``; then any loader of towers takes the folder.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from textreg.errors import InputError

BLOCKS = (  # repeats, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, HEAD = 32, 1280
SIDE = 224


class LiteConfig(PreTrainedConfig):
    """``grid`` squared tokens a picture; the other values follow from it, and are what a LLaVA asks a tower for."""

    model_type = "efficientnet_lite"

    def __init__(self, grid: int = 2, **options: Any) -> None:
        self.grid = grid
        self.image_size, self.patch_size = SIDE, SIDE // grid
        self.hidden_size = 2 * HEAD + grid * grid
        self.vision_use_head = False  # the last states are the ones to read
        super().__init__(**options)


class Convolution(nn.Conv2d):
    """Without bias, padded as TensorFlow pads (``SAME``)."""

    def __init__(self, given: int, made: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(given, made, kernel, stride, groups=groups, bias=False)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        sides = []
        for side in (maps.shape[-1], maps.shape[-2]):
            more = max((-(-side // self.stride[0]) - 1) * self.stride[0] + self.kernel_size[0] - side, 0)
            sides += [more // 2, more - more // 2]
        return super().forward(F.pad(maps, sides))


def normal(channels: int) -> nn.BatchNorm2d:
    """With TensorFlow's epsilon."""
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    """An inverted residual: widen, convolve each channel, narrow.  Parts are named as in the released weights."""

    def __init__(self, given: int, made: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = given * expansion
        if expansion != 1:
            self._expand_conv, self._bn0 = Convolution(given, wide, 1), normal(wide)
        self._depthwise_conv, self._bn1 = Convolution(wide, wide, kernel, stride, groups=wide), normal(wide)
        self._project_conv, self._bn2 = Convolution(wide, made, 1), normal(made)
        self.residual, self.widens = stride == 1 and given == made, expansion != 1

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        wide = F.relu6(self._bn0(self._expand_conv(maps))) if self.widens else maps
        made = self._bn2(self._project_conv(F.relu6(self._bn1(self._depthwise_conv(wide)))))
        return made + maps if self.residual else made


class LiteTower(PreTrainedModel):
    """``hidden_states`` holds one entry, [pictures, grid * grid, 2 * 1280 + grid * grid]."""

    config_class = LiteConfig
    main_input_name = "pixel_values"

    def __init__(self, config: LiteConfig) -> None:
        super().__init__(config)
        self._conv_stem, self._bn0 = Convolution(3, STEM, 3, 2), normal(STEM)
        blocks, given = [], STEM
        for repeats, kernel, stride, expansion, made in BLOCKS:
            for number in range(repeats):
                blocks.append(Block(given, made, kernel, 1 if number else stride, expansion))
                given = made
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = Convolution(given, HEAD, 1), normal(HEAD)
        self.post_init()

    def maps(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """[pictures, 3, 224, 224] to [pictures, 1280, 7, 7]."""
        found = F.relu6(self._bn0(self._conv_stem(pixel_values)))
        for block in self._blocks:
            found = block(found)
        return F.relu6(self._bn1(self._conv_head(found)))

    def forward(self, pixel_values: torch.Tensor, **options: Any) -> BaseModelOutput:
        self.eval()  # frozen: the statistics of its training stay
        found = self.maps(pixel_values)
        cells = F.adaptive_avg_pool2d(found, self.config.grid).flatten(2).transpose(1, 2)  # [pictures, tokens, 1280]
        count = cells.shape[1]
        whole = found.mean((2, 3))[:, None].expand(-1, count, -1)
        place = torch.eye(count, dtype=cells.dtype, device=cells.device).expand(len(cells), -1, -1)
        states = torch.cat([cells, whole, place], dim=-1)
        return BaseModelOutput(last_hidden_state=states, hidden_states=(states,))


AutoConfig.register(LiteConfig.model_type, LiteConfig, exist_ok=True)
AutoModel.register(LiteConfig, LiteTower, exist_ok=True)


def convert(weights: str | Path, folder: str | Path, grid: int = 2) -> None:
    """The released weights (a pickle of tensors alone, without their classifier) as a folder that a tower loads from.

    Raises :class:`InputError` where they are not those of EfficientNet-Lite0.
    """
    state = torch.load(weights, map_location="cpu", weights_only=True)
    tower = LiteTower(LiteConfig(grid=grid))
    try:
        tower.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith("_fc.")})
    except RuntimeError as error:
        raise InputError(f"{weights}: not EfficientNet-Lite0 ({str(error).splitlines()[-1].strip()[:120]})") from None
    tower.save_pretrained(folder)
    # As the weights were trained: (value - 127) / 128 of 0..255.
    size = {"height": SIDE, "width": SIDE}
    SiglipImageProcessorPil(size=size, image_mean=[127 / 255] * 3, image_std=[128 / 255] * 3).save_pretrained(folder)
