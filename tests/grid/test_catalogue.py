"""Components by their names in the catalogue."""

import pytest

from benchmark.aggregators import NNM, Chain
from benchmark.config.errors import ConfigError
from benchmark.grid.catalogue import chain, component, is_variant


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("krumm", r"^aggregator=krumm: no such choice; did you mean krum\? "),
        ("krum distanc=plain", r"did you mean aggregator\.distance\?"),
        ("krum distance=far", "distance"),
        ("nmm+krum", "no such choice"),
    ],
)
def test_wrong_names_are_an_error_of_one_line(name, message):
    with pytest.raises(ConfigError, match=message) as error:
        chain(name)
    assert "\n" not in str(error.value)


def test_names_with_settings():
    assert chain("nnm+multi_krum m=3") == Chain([NNM(), component("aggregator", "multi_krum m=3")])
    assert component("aggregator", "multi_krum m=3").m == 3
    assert is_variant("aggregator", "rfa") and not is_variant("aggregator", "krum")
