"""FID by torch-fidelity on random Inception weights made here, and the distance's closed forms."""

import sys

import numpy as np
import pytest
from PIL import Image

from lumina_jax.official import extras
from lumina_jax.official.fid import (
    Inception,
    fid,
    frechet_distance,
    image_paths,
    read_statistics,
)

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("imported_fidelity")]
WIDTH = 64  # features of the smallest layer


@pytest.fixture(scope="module")
def inception(imported_fidelity, tmp_path_factory) -> Inception:
    """InceptionV3 with random weights; only its first layers run."""
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save({}, path)
    with pytest.MonkeyPatch.context() as patch:  # an untrained network: nothing to load
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = module.FeatureExtractorInceptionV3("x", ["64"], str(path))
    torch.save(network.state_dict(), path)
    return Inception(path, layer="64")


@pytest.fixture
def folders(tmp_path):
    """Two folders of eight noisy pictures, one dark and one bright; sizes differ within each."""
    rng = np.random.default_rng(0)
    for name, low in (("dark", 0), ("bright", 128)):
        (tmp_path / name / "deeper").mkdir(parents=True)
        for index in range(8):
            shape = (20 + 4 * (index % 2), 24, 3)
            pixels = rng.integers(low, low + 128, shape).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / "deeper" / f"{index}.png")
    return tmp_path / "dark", tmp_path / "bright"


def gaussian(mean: float, variance: float, width: int = 5) -> dict[str, np.ndarray]:
    return {"mu": np.full(width, mean), "sigma": variance * np.eye(width)}


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [
        (gaussian(0, 1), gaussian(0, 1), 0.0),
        (gaussian(0, 1), gaussian(2, 1), 5 * 4.0),  # |mu1 - mu2|²
        (gaussian(0, 1), gaussian(0, 9), 5 * (1 - 3) ** 2.0),  # (sigma1 - sigma2)² a dimension
        (gaussian(1, 4), gaussian(-1, 0), 5 * (4 + 4.0)),
    ],
)
def test_distance_equals_the_closed_form(first, second, distance) -> None:
    pytest.importorskip("torch_fidelity.metric_fid")
    assert frechet_distance(first, second) == pytest.approx(distance, abs=1e-9)


def test_statistics_of_two_widths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mu of \(5,\) and \(6,\): want features of one layer"):
        frechet_distance(gaussian(0, 1), gaussian(0, 1, 6))


@pytest.mark.filterwarnings("ignore:.*images for 64 features")
def test_equal_folders_are_at_zero_and_others_are_not(inception, folders, tmp_path) -> None:
    dark, bright = folders
    same = fid(dark, dark, inception, batch=3, progress=False)
    far = fid(dark, bright, inception, batch=3, progress=False)
    assert same["fid"] == pytest.approx(0, abs=1e-6 * far["fid"])  # the eigenvalues' rounding
    assert far["fid"] > 0 and (far["num_images"], far["num_reference_images"]) == (8, 8)
    features = inception.of_files(image_paths(bright), None, 5, progress=False)
    np.savez(tmp_path / "bright.npz", **inception.statistics(features))
    stored = fid(dark, tmp_path / "bright.npz", inception, progress=False)
    assert stored["fid"] == pytest.approx(far["fid"], rel=1e-5)
    assert stored["num_reference_images"] is None and len(stored["reference_sha256"]) == 64
    assert stored["features"] == "InceptionV3, layer 64" and stored["versions"]["torch"]
    assert len(stored["weights"]["sha256"]) == 64


def test_few_images_are_warned_of_and_crops_are_square(inception, folders) -> None:
    with pytest.warns(UserWarning, match="8 images for 64 features: FID is biased"):
        found = fid(*folders, inception, crop_px=16, batch=8, progress=False)
    assert found["crop_px"] == 16
    features = inception.of_files(image_paths(folders[0]), 16, 8, progress=False)
    assert features.shape == (8, WIDTH) and features.dtype == np.float64


def test_bad_weights_and_statistics_are_refused_in_one_line(tmp_path) -> None:
    pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    (tmp_path / "weights.pth").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="no weights of torch-fidelity's InceptionV3") as caught:
        Inception(tmp_path / "weights.pth")
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no weights of InceptionV3 there"):
        Inception(tmp_path / "nowhere.pth")
    np.savez(tmp_path / "other.npz", mean=np.zeros(3))
    with pytest.raises(ValueError, match="want an .npz file with mu and sigma"):
        read_statistics(tmp_path / "other.npz")
    with pytest.raises(ValueError, match="no images there"):
        image_paths(tmp_path)


def test_absent_library_says_how_to_install_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ValueError, match="torch_fidelity is not there.*-r requirements-evals.txt"):
        extras.extra("torch_fidelity")
