import pytest
import torch
from torch.nn import functional as F

from textreg.errors import InputError
from textreg.pictures.tower import Convolution, LiteConfig, LiteTower, convert
from textreg.vlm.loading import load_tower


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A file as it is released, of random weights: names with underscores, and a classifier."""
    torch.manual_seed(0)
    state = LiteTower(LiteConfig()).state_dict() | {"_fc.weight": torch.zeros(3, 1280), "_fc.bias": torch.zeros(3)}
    path = tmp_path_factory.mktemp("released") / "lite0.pth"
    torch.save(state, path)
    return path


def test_released_weights_become_a_folder_that_loads_as_a_tower(released, tmp_path):
    convert(released, tmp_path / "tower")
    tower, processor = load_tower(str(tmp_path / "tower"), "fp32", "cpu")
    assert sum(each.numel() for each in tower.parameters()) == 3_371_008
    assert (processor.size.height, processor.size.width) == (224, 224)


def test_a_token_holds_its_cell_the_whole_and_its_place(released):
    tower = LiteTower(LiteConfig(grid=2))
    pixels = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states = tower(pixels).hidden_states[-1]
        maps = tower.maps(pixels)
    assert states.shape == (1, 4, tower.config.hidden_size)
    assert torch.allclose(states[0, 0, :1280], maps[0, :, :4, :4].mean((1, 2)), atol=1e-5)
    assert torch.allclose(states[0, :, 1280:2560], maps.mean((2, 3)).expand(4, -1), atol=1e-5)
    assert torch.equal(states[0, :, 2560:], torch.eye(4))


def test_padding_is_as_tensorflow_pads_more_at_the_end_than_at_the_beginning():
    convolution = Convolution(1, 1, kernel=3, stride=2)
    picture = torch.rand(1, 1, 4, 4)
    with torch.no_grad():
        expected = F.conv2d(F.pad(picture, (0, 1, 0, 1)), convolution.weight, stride=2)
        assert torch.equal(convolution(picture), expected)


def test_other_weights_are_refused(tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="not EfficientNet-Lite0"):
        convert(tmp_path / "other.pth", tmp_path / "tower")
