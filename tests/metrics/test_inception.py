"""Random weights in place of the official ones, which need a download; He initialization keeps features non-zero."""

import math
import pickle
import shutil
import sys

import numpy as np
import pytest
import torch

from alitok.core.checkpoint import save_tensors
from alitok.core.errors import AlitokError
from alitok.core.files import sha256
from alitok.metrics import inception
from alitok.metrics.inception import OFFICIAL, InceptionFeatures

pytestmark = pytest.mark.slow
FILE = "pt_inception-2015-12-05-6726825d.pth"


def _bare():
    """torch-fidelity's network without weights."""
    from torch_fidelity import feature_extractor_inceptionv3 as library

    class Unloaded(library.FeatureExtractorInceptionV3):
        def load_state_dict(self, *args, **kwargs):
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "load_state_dict_from_url", lambda *args, **kwargs: {})
        return Unloaded("bare", ["2048"])


@pytest.fixture(scope="module")
def tensors():
    generator = torch.Generator().manual_seed(0)
    made = {}
    for name, tensor in _bare().state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim > 1:
            made[name] = noise * math.sqrt(2 / tensor[0].numel())
        elif name.endswith(("bn.weight", "running_var")):
            made[name] = (1 + 0.1 * noise).abs()
        elif tensor.ndim == 1:  # the official file has no batch counts
            made[name] = 0.1 * noise
    return made


@pytest.fixture(scope="module")
def path(tensors, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(tensors, path)
    return path


@pytest.fixture(scope="module")
def network(path):
    return InceptionFeatures.load(path)


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(5, 3, 9, 7, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (50, 40), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round().to(torch.uint8)


@pytest.fixture(scope="module")
def output(network, images):
    return network(images)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


def _no_network(url, place, **settings):
    raise OSError("no route to host")


def _inside(network, name, images):
    """Input and output of a submodule of torch-fidelity's network."""
    seen = []
    handle = network.network.get_submodule(name).register_forward_hook(
        lambda module, inputs, found: seen.append((inputs[0].clone(), found.clone()))
    )
    with torch.no_grad():
        network.network(images)
    handle.remove()
    return seen[0]


def _resized(image, side):
    """(h, w) -> (side, side) as in TensorFlow 1: pixel i is at i * h / side, the last one repeated."""
    places = [np.arange(side) * length / side for length in image.shape]
    low = [place.astype(int) for place in places]
    high = [np.minimum(some + 1, length - 1) for some, length in zip(low, image.shape, strict=True)]
    y, x = (place - some for place, some in zip(places, low, strict=True))
    top = image[low[0]][:, low[1]] * (1 - x) + image[low[0]][:, high[1]] * x
    bottom = image[high[0]][:, low[1]] * (1 - x) + image[high[0]][:, high[1]] * x
    return top * (1 - y[:, None]) + bottom * y[:, None]


def test_images_are_resized_as_in_tensorflow_1(network, images):
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x as resize

    seen, _ = _inside(network, "Conv2d_1a_3x3", images[:1])
    by_hand = (_resized(images[0, 1].double().numpy(), 299) - 128) / 128
    np.testing.assert_allclose(seen[0, 1], by_hand, atol=1e-5)
    theirs = (resize(images[:1].float(), size=(299, 299), align_corners=False) - 128) / 128
    assert torch.equal(seen, theirs)
    usual = torch.nn.functional.interpolate(images[:1].float(), (299, 299), mode="bilinear")
    assert (seen - (usual - 128) / 128).abs().max() > 0.1  # PyTorch's resize differs


def test_shapes_and_ranges(output):
    assert [tuple(part.shape) for part in output] == [(5, 2048), (5, 2023), (5, 1008)]
    assert all(part.dtype == torch.float32 and part.isfinite().all() for part in output)
    assert output.pool.min() >= 0
    assert output.spatial.min() == 0
    assert torch.allclose(output.probabilities.sum(1), torch.ones(5))
    assert (output.pool.std(0) > 1e-3 * output.pool.mean(0)).float().mean() > 0.5  # images differ


def test_pool_and_probabilities_equal_torch_fidelitys(network, path, images, output):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    names = ["2048", "logits_unbiased", "logits"]
    library = FeatureExtractorInceptionV3("theirs", names, feature_extractor_weights_path=str(path))
    pool, unbiased, biased = library(images)
    assert torch.equal(output.pool, pool)
    assert torch.allclose(output.probabilities, unbiased.softmax(1), rtol=1e-5)
    assert not torch.allclose(output.probabilities, biased.softmax(1), rtol=1e-2)


def test_spatial_is_the_first_branch_of_the_seventh_block(network, images, output):
    entering, whole = _inside(network, "Mixed_6d", images)
    block = network.network.Mixed_6d
    branch = torch.relu(block.branch1x1.bn(block.branch1x1.conv(entering)))
    spatial = output.spatial.view(5, 17, 17, 7)
    assert torch.allclose(spatial, branch.permute(0, 2, 3, 1)[..., :7], rtol=1e-5, atol=1e-5)
    assert torch.equal(spatial[3, 4, 11], whole[3, :7, 4, 11])
    for other in ("Mixed_6c", "Mixed_6e"):
        assert not torch.allclose(spatial[3, 4, 11], _inside(network, other, images)[1][3, :7, 4, 11], rtol=0.1)


def test_features_do_not_depend_on_the_batch_and_are_deterministic(network, images, output):
    for found, wanted in zip(network(images[2:3]), output, strict=True):
        torch.testing.assert_close(found[0], wanted[2], rtol=1e-5, atol=1e-5 * float(wanted.max()))
    assert all(torch.equal(found, wanted) for found, wanted in zip(network(images), output, strict=True))


def test_autocast_and_train_mode_have_no_effect(network, images, output):
    network.train()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.enable_grad():
        found = network(images)
    assert torch.equal(found.pool, output.pool)
    assert not found.pool.requires_grad
    assert not any(module.training for module in network.modules())
    assert not network.network.Mixed_6d.branch1x1._forward_hooks


def test_weights_may_be_safetensors(tensors, network, path, tmp_path, images, output):
    save_tensors(tmp_path / "random.safetensors", tensors)
    found = InceptionFeatures.load(tmp_path / "random.safetensors")
    assert torch.equal(found(images[:1]).pool, network(images[:1]).pool)
    assert found.name == network.name != OFFICIAL
    assert found.weights != network.weights == sha256(path)


def test_other_weights_have_another_name(tensors, network, tmp_path):
    torch.save(tensors | {"fc.bias": tensors["fc.bias"] + 1}, tmp_path / "other.pth")
    assert InceptionFeatures.load(tmp_path / "other.pth").name != network.name


@pytest.mark.parametrize("name", [FILE, "weights-inception-2015-12-05-6726825d.pth"])
def test_the_official_file_is_read_from_the_cache(name, cache, path, monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", _no_network)
    cache.mkdir(parents=True)
    shutil.copy(path, cache / name)
    with pytest.raises(AlitokError, match=f"{name} is damaged.*delete it"):
        InceptionFeatures.load()
    monkeypatch.setattr(inception, "_HASH", sha256(path)[:8])
    assert InceptionFeatures.load().name == OFFICIAL


def test_weights_are_downloaded_to_the_cache_and_checked(cache, path, monkeypatch):
    downloads = []

    def download(url, place, hash_prefix, progress):
        downloads.append((url.rpartition("/")[2], hash_prefix))
        shutil.copy(path, place)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setattr(inception, "_HASH", sha256(path)[:8])
    for _ in range(2):
        assert InceptionFeatures.load().name == OFFICIAL
    assert downloads == [("weights-inception-2015-12-05-6726825d.pth", sha256(path)[:8])]


def test_offline_the_error_names_the_file_and_the_place(cache, monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", _no_network)
    with pytest.raises(AlitokError) as caught:
        InceptionFeatures.load()
    for words in ("no route to host", FILE, str(cache), "--inception-weights FILE"):
        assert words in str(caught.value)


def test_missing_torch_fidelity_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(AlitokError, match=r"pip install 'alitok\[eval\]'"):
        InceptionFeatures.load()


def test_files_that_are_not_the_weights_are_rejected(tensors, tmp_path):
    path = tmp_path / "weights.pth"
    with pytest.raises(AlitokError, match=f"weights.pth does not exist; pass the path of {FILE}"):
        InceptionFeatures.load(path)
    path.write_bytes(pickle.dumps(print, protocol=2))
    with pytest.raises(AlitokError, match=r"weights\.pth is truncated, or holds other things"):
        InceptionFeatures.load(path)
    torch.save({"fc.weight": tensors["fc.weight"]}, path)
    with pytest.raises(AlitokError, match=r"weights\.pth does not hold the weights of TensorFlow's Inception"):
        InceptionFeatures.load(path)
    torch.save(tensors | {"fc.weight": tensors["fc.weight"] * torch.nan}, path)
    with pytest.raises(AlitokError, match=r"weights\.pth holds values that are not finite"):
        InceptionFeatures.load(path)


def test_only_the_official_weights_give_fid():
    assert InceptionFeatures(torch.nn.Identity(), OFFICIAL, "a").distance == "FID"


@pytest.mark.parametrize("name", ["inception-0123456789abcdef", f"{OFFICIAL}-2"])
def test_with_other_weights_the_distance_is_named_after_them(name):
    assert InceptionFeatures(torch.nn.Identity(), name, "a").distance == f"Frechet distance in the features of {name}"
