import os
import socket
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import nn

from alitok.core.checkpoint import save_tensors
from alitok.core.errors import AlitokError
from alitok.losses import perceptual
from alitok.losses.perceptual import (
    ConvNextLogits,
    FeatureNetwork,
    LpipsVgg,
    NetworkMissingError,
    PerceptualWeights,
    load_network,
    unit_difference,
)

models = pytest.importorskip("torchvision.models")
pytest.importorskip("lpips")


@pytest.fixture(scope="module")
def convnext():
    return ConvNextLogits()


@pytest.fixture(scope="module")
def vgg():
    network = LpipsVgg()
    torch._foreach_copy_(list(network.heads), [torch.rand_like(head) for head in network.heads])
    return network


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No internet, and an empty torchvision cache in the returned directory."""

    def no_network(request):
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    return tmp_path / "hub" / "checkpoints"


def vgg_state(network):
    return {f"features.{name}": tensor.clone() for name, tensor in network.features.state_dict().items()}


def random_heads():
    sizes = (64, 128, 256, 512, 512)
    return {f"lin{index}.model.1.weight": torch.rand(1, size, 1, 1) for index, size in enumerate(sizes)}


@pytest.mark.parametrize("side", [20, 224, 300])
def test_convnext_logits_equal_torchvisions_at_224_px(convnext, side):
    from torchvision.transforms.v2 import functional as transforms

    images = torch.rand(1, 3, side, side)
    resized = transforms.resize(images, [224, 224], antialias=True)
    normalized = transforms.normalize(resized, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    (logits,) = convnext(images)
    assert logits.shape == (1, 1000)
    assert torch.allclose(logits, convnext.network(normalized), atol=1e-5)


def test_distance_of_logits_is_their_mse(convnext):
    features, target = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 2.0], [3.0, 0.0]])
    assert convnext.distance((features,), (target,)).item() == pytest.approx((1 + 9) / 4)
    assert convnext.distance((features.bfloat16(),), (target.bfloat16(),)).dtype == torch.float32


def test_lpips_distance_by_hand(vgg):
    first = [torch.rand(2, head.shape[1], 3, 2) for head in vgg.heads]
    second = [torch.rand(2, head.shape[1], 3, 2) for head in vgg.heads]
    expected = np.zeros(2)
    for head, a, b in zip(vgg.heads, first, second, strict=True):
        weights, a, b = head.flatten().double().numpy(), a.double().numpy(), b.double().numpy()
        for image, row, column in np.ndindex(2, 3, 2):
            u, v = a[image, :, row, column], b[image, :, row, column]
            difference = u / np.sqrt(np.sum(u**2)) - v / np.sqrt(np.sum(v**2))
            expected[image] += np.sum(weights * difference**2) / 6
    assert vgg.distances(first, second).numpy() == pytest.approx(expected, rel=1e-5)
    assert vgg.distance(first, second).item() == pytest.approx(expected.mean(), rel=1e-5)


def test_vgg_features_are_of_the_five_named_layers(vgg):
    features = vgg(torch.rand(1, 3, 32, 48))
    assert [tuple(feature.shape[1:]) for feature in features] == [
        (64, 32, 48),
        (128, 16, 24),
        (256, 8, 12),
        (512, 4, 6),
        (512, 2, 3),
    ]
    assert all((feature >= 0).all() for feature in features)  # after a ReLU


@pytest.mark.slow  # the import of lpips takes seconds
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("size", [(64, 64), (224, 224), (48, 80)])
def test_lpips_equals_the_lpips_package(tmp_path, size):
    import lpips

    theirs = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    slices = (theirs.net.slice1, theirs.net.slice2, theirs.net.slice3, theirs.net.slice4, theirs.net.slice5)
    weights = {f"features.{name}": tensor for part in slices for name, tensor in part.state_dict().items()}
    save_tensors(tmp_path / "vgg.safetensors", weights)
    ours = load_network("lpips", PerceptualWeights(vgg=str(tmp_path / "vgg.safetensors")))
    images, others = torch.rand(2, 3, *size), torch.rand(2, 3, *size)
    expected = theirs(images, others, normalize=True).mean().item()
    assert ours.distance(ours(images), ours(others)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("which", ["convnext", "vgg"])
def test_networks_stay_frozen_and_in_evaluation_mode(request, which):
    network = request.getfixturevalue(which)
    nn.Sequential(network).train()
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("which", ["convnext", "vgg"])
def test_gradients_reach_the_image_and_equal_images_have_distance_zero(request, which):
    network = request.getfixturevalue(which)
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    with torch.no_grad():
        target = network(torch.rand(1, 3, 32, 32))
    features = network(images)
    assert network.distance(features, features) == 0
    distance = network.distance(features, target)
    assert distance > 0
    distance.backward()
    assert images.grad.norm() > 0
    assert all(parameter.grad is None for parameter in network.parameters())


def test_bf16_features_give_a_float32_distance(vgg):
    images, others = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        features, target = vgg(images), vgg(others)
        distance = vgg.distance(features, target)
    assert features[-1].dtype == torch.bfloat16
    assert distance.dtype == torch.float32
    exact = vgg.distance([a.float() for a in features], [b.float() for b in target])
    assert distance.item() == exact.item()


def test_zero_features_have_a_finite_gradient():
    dark = torch.zeros(1, 4, 1, 1, requires_grad=True)
    unit_difference(torch.relu(dark), torch.ones(1, 4, 1, 1)).sum().backward()
    assert dark.grad.isfinite().all()


def test_lpips_rejects_images_too_small_for_vgg(vgg):
    with pytest.raises(AlitokError, match="at least 16 px"):
        vgg(torch.rand(1, 3, 15, 64))


def test_the_expected_file_names_are_torchvisions():
    assert models.ConvNeXt_Small_Weights.IMAGENET1K_V1.url.endswith("/" + perceptual._CONVNEXT_FILE)
    assert models.VGG16_Weights.IMAGENET1K_V1.url.endswith("/" + perceptual._VGG_FILE)


@pytest.mark.parametrize(
    ("name", "key", "file"),
    [("convnext", "convnext", "convnext_small-0c510722.pth"), ("lpips", "vgg", "vgg16-397923af.pth")],
)
def test_without_internet_the_error_says_what_would_help(offline, name, key, file):
    with pytest.raises(NetworkMissingError) as error:
        load_network(name, PerceptualWeights())
    message = str(error.value)
    assert error.value.reason in message
    assert "--perceptual" not in error.value.reason
    for part in (name, file, str(offline), f"perceptual.{key}=FILE", "--perceptual local", "--perceptual none"):
        assert part in message
    assert "name resolution" in message
    assert "\n" not in message
    assert message.endswith(".")


def test_an_unresponsive_download_times_out(offline, monkeypatch):
    waits = []

    def unresponsive(request):
        waits.append(socket.getdefaulttimeout())
        raise TimeoutError("timed out")

    monkeypatch.setattr(torch.hub, "urlopen", unresponsive)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(1000)
    try:
        with pytest.raises(AlitokError, match="timed out"):
            load_network("convnext", PerceptualWeights())
        assert 0 < waits[0] <= 60
        assert socket.getdefaulttimeout() == 1000
    finally:
        socket.setdefaulttimeout(before)


@pytest.mark.parametrize("name", ["convnext", "lpips"])
def test_missing_torchvision_is_reported(offline, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(AlitokError, match=r"alitok\[perceptual\].*--perceptual local"):
        load_network(name, PerceptualWeights())


def test_cached_weights_need_no_internet_and_lpips_is_not_imported(offline, monkeypatch, vgg):
    monkeypatch.delitem(sys.modules, "lpips", raising=False)
    offline.mkdir(parents=True)
    classifier = {"classifier.6.bias": torch.zeros(1000)}
    torch.save(vgg_state(vgg) | classifier, offline / perceptual._VGG_FILE)
    network = load_network("lpips", PerceptualWeights())
    assert isinstance(network, FeatureNetwork)
    images = torch.rand(1, 3, 16, 16)
    assert all(torch.equal(a, b) for a, b in zip(network(images), vgg(images), strict=True))
    assert not any(torch.equal(ours, theirs) for ours, theirs in zip(network.heads, vgg.heads, strict=True))
    assert "lpips" not in sys.modules


def test_lpips_files_are_read_in_either_format(offline, tmp_path, vgg):
    heads = random_heads()
    save_tensors(tmp_path / "vgg.safetensors", vgg_state(vgg))
    torch.save(heads, tmp_path / "heads.pth")
    weights = PerceptualWeights(vgg=str(tmp_path / "vgg.safetensors"), lpips_heads=str(tmp_path / "heads.pth"))
    lpips = load_network("lpips", weights)
    assert all(torch.equal(head, given) for head, given in zip(lpips.heads, heads.values(), strict=True))
    assert torch.equal(lpips.features[28].weight, vgg.features[28].weight)
    assert not any(parameter.requires_grad for parameter in lpips.parameters())


def test_a_convnext_file_is_read(offline, tmp_path, convnext):
    torch.save(convnext.network.state_dict(), tmp_path / "convnext.pth")
    logits = load_network("convnext", PerceptualWeights(convnext=str(tmp_path / "convnext.pth")))
    assert torch.equal(logits.network.classifier[2].weight, convnext.network.classifier[2].weight)
    assert not any(parameter.requires_grad for parameter in logits.parameters())


class Code:
    """A pickle that makes a directory when it is read."""

    def __init__(self, made):
        self.made = made

    def __reduce__(self):
        return os.mkdir, (self.made,)


def code(path: Path):
    torch.save({"features.0.weight": Code(str(path.parent / "ran"))}, path)


def truncated(path: Path):
    torch.save({"features.0.weight": torch.zeros(5000)}, path)
    path.write_bytes(path.read_bytes()[:-4000])


def a_list(path: Path):
    torch.save([torch.zeros(2)], path)


def wrong_shapes(path: Path):
    torch.save({"features.0.weight": torch.zeros(1), "surplus": torch.zeros(1)}, path)


@pytest.mark.parametrize(
    ("write", "fault"),
    [
        (lambda path: None, "does not exist"),
        (code, "other things than tensors"),
        (truncated, "truncated"),
        (a_list, "other things than named tensors"),
        (
            wrong_shapes,
            r"features.0.weight is \(1,\), not \(64, 3, 3, 3\).*missing features.0.bias.*unexpected surplus",
        ),
    ],
)
def test_a_wrong_file_is_reported_with_its_fault_and_option(tmp_path, write, fault):
    path = tmp_path / "weights.pth"
    write(path)
    with pytest.raises(AlitokError, match=f"weights.pth.*{fault}.*perceptual.vgg=FILE"):
        load_network("lpips", PerceptualWeights(vgg=str(path)))
    assert not (tmp_path / "ran").exists()


def test_wrong_or_missing_heads_are_reported_with_their_option(tmp_path, monkeypatch, vgg):
    save_tensors(tmp_path / "vgg.safetensors", vgg_state(vgg))
    weights = {"vgg": str(tmp_path / "vgg.safetensors")}
    torch.save({name: head for name, head in random_heads().items() if "lin3" not in name}, tmp_path / "heads.pth")
    with pytest.raises(AlitokError, match=r"missing lin3.model.1.weight.*perceptual.lpips_heads=FILE"):
        load_network("lpips", PerceptualWeights(**weights, lpips_heads=str(tmp_path / "heads.pth")))
    monkeypatch.setattr(perceptual.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AlitokError, match=r"lpips is not installed.*perceptual.lpips_heads=FILE"):
        load_network("lpips", PerceptualWeights(**weights))
