"""The table of accelerators: names, and rates that must agree with one another."""

import pytest

from lumina_jax.chips import BY_NAME, CHIPS, chip_named, chip_of_kind


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v4", "v4"),
        ("TPU v4 lite", "v4i"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5e", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-pcie-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie"),
        ("NVIDIA A100-PCIE-80GB", "a100-pcie"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200 NVL", "h200-nvl"),
        ("cpu", "cpu"),
    ],
)
def test_the_longest_beginning_of_a_device_s_name_counts(kind: str, name: str) -> None:
    found = chip_of_kind(kind)
    assert found is not None and found.name == name


def test_parts_of_gpus_and_strangers_are_none() -> None:
    assert chip_of_kind("NVIDIA H100 80GB HBM3 MIG 1g.10gb") is None
    assert chip_of_kind("abacus") is None


def test_names_are_unique_and_misspelt_ones_get_the_nearest() -> None:
    assert len(BY_NAME) == len(CHIPS)
    assert chip_named("V5e").kind == "TPU v5 lite"
    with pytest.raises(ValueError, match=r"unknown accelerator 'v5f'.*did you mean 'v5"):
        chip_named("v5f")


@pytest.mark.parametrize("chip", [chip for chip in CHIPS if chip.has_rates])
def test_rates_are_in_their_units(chip) -> None:
    """A slip of a factor of 8 or 1000 shows: FLOPs a byte of memory lie between 100 and 600 on all of them."""
    assert 100 < chip.flops / chip.bandwidth < 600
    assert chip.flops <= chip.int8 <= 2.01 * chip.flops
    assert 8e9 <= chip.memory_bytes <= 200e9
    if chip.link:
        assert 0.02 < chip.link * chip.num_links / chip.bandwidth < 0.4
        assert chip.network < chip.link * chip.num_links


def test_links_and_network_of_data_sheets() -> None:
    """Totals as they are printed: ICI both ways, NVLink both ways, network a pod."""
    totals = {chip.name: 2 * chip.link * chip.num_links / 1e9 for chip in CHIPS}
    assert (totals["v5e"], totals["v5p"], totals["v6e"]) == (400, 1200, 800)
    assert (totals["a100"], totals["h100"], totals["h200"]) == (600, 900, 900)
    assert BY_NAME["v5e"].network * 8 * 256 == 6.4e12
    assert BY_NAME["v6e"].network * 8 * 8 == 800e9
