import pytest

from cli import bench_transducer
from workers import dummy
from workers.models.fastconformer import FastConformerConfig

SMALL = FastConformerConfig(
    hidden_size=32,
    num_hidden_layers=1,
    intermediate_size=32,
    subsampling_conv_channels=4,
    decoder_hidden_size=16,
)


def test_sessions_are_counted_while_they_hold(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(dummy.SHAPES, "small", SMALL)
    told: list[str] = []
    result = bench_transducer.run("dummy:small", 3, [1, 2], 0.8, told.append, device="cpu")
    assert result["chunk_ms"] == 320
    assert [level["sessions"] for level in result["levels"]][:1] == [1]
    assert result["holds"] == max(
        [level["sessions"] for level in result["levels"] if level["holds"]], default=0
    )
    assert [part["rows"] for part in result["steps"]][:1] == [1]
    assert told
