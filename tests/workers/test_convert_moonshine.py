import json

import numpy as np
import pytest
from tokenizers import Tokenizer

from workers import checkpoints, ort_format, wheels
from workers.convert_moonshine import CONFIG, PRODUCTS, state_dict, tokenizer, tokens
from workers.ort_format import Graph, Node

MOONSHINE = checkpoints.CATALOGUE["moonshine-tiny-en"]


@pytest.fixture(scope="module")
def originals() -> dict[str, bytes]:
    """The wheel's files by their role."""
    found = wheels.members(wheels.fetch(MOONSHINE.wheel), list(MOONSHINE.members))
    return {MOONSHINE.members[name]: content for name, content in found.items()}


def quantised(name: str, rows: int, columns: int) -> dict[str, np.ndarray]:
    return {
        f"{name}_quantized": np.arange(rows * columns, dtype=np.uint8).reshape(rows, columns),
        f"{name}_scale": np.array(0.5, np.float32),
        f"{name}_zero_point": np.array(3, np.uint8),
    }


def small() -> tuple[Graph, Graph]:
    """Graphs of one layer's worth, named as the exporter names them."""
    a, b = "onnx::MatMul_1", "onnx::MatMul_2"
    inputs_a = ("x", f"{a}_quantized", "x_scale", f"{a}_scale", "x_zero", f"{a}_zero_point")
    inputs_b = ("x", f"{b}_quantized", f"{b}_scale", f"{b}_zero_point", "layers.0.mlp.fc1.bias")
    floats = {
        "onnx::Mul_9": np.full((4, 1), 2, np.float32),
        "onnx::Add_9": np.full((4, 1), 5, np.float32),
        "conv1.weight_add_tensor": np.ones((4, 1, 7), np.float32),
        "layers.0.mlp.fc1.bias": np.ones(2, np.float32),
        "/layers.0/Constant_output_0": np.zeros(4, np.float32),
    }
    encoder = Graph(
        (
            Node("/groupnorm/Mul", "Mul", ("x", "onnx::Mul_9"), ()),
            Node("/groupnorm/Add", "Add", ("x", "onnx::Add_9"), ()),
            Node("/layers.0/self_attn/k_proj/MatMul_quant", "MatMulIntegerToFloat", inputs_a, ()),
            Node("/layers.0/mlp/fc1/MatMul_quant", "DynamicQuantizeMatMul", inputs_b, ()),
        ),
        floats | quantised(a, 2, 3) | quantised(b, 3, 2),
    )
    inputs_c = ("x", "c_quantized", "c_scale", "c_zero_point", "")
    inner = Graph(
        (
            Node(
                "/model/decoder/layers.0/self_attn/o_proj/MatMul_quant", "DynamicQuantizeMatMul", inputs_c, ()
            ),
            Node("/proj_out/MatMul_quant", "DynamicQuantizeMatMul", inputs_c, ()),
        ),
        {},
    )
    embedding = quantised("model.decoder.embed_tokens.weight_merged_0", 5, 2)
    norm = {"model.decoder.norm.weight_merged_1": np.ones(2, np.float32)}
    outer = Graph((Node("", "If", ("flag",), (inner, inner)),), quantised("c", 2, 2) | embedding | norm)
    return encoder, outer


def test_weights_are_found_by_the_names_of_their_nodes() -> None:
    found = state_dict(*small())
    assert list(found) == [
        "model.decoder.embed_tokens.weight",
        "model.decoder.layers.0.self_attn.o_proj.weight",
        "model.decoder.norm.weight",
        "model.encoder.conv1.weight",
        "model.encoder.groupnorm.bias",
        "model.encoder.groupnorm.weight",
        "model.encoder.layers.0.mlp.fc1.bias",
        "model.encoder.layers.0.mlp.fc1.weight",
        "model.encoder.layers.0.self_attn.k_proj.weight",
    ]
    assert {value.dtype for value in found.values()} == {np.dtype(np.float32)}


def test_weights_are_scaled_and_laid_out_as_torch_wants_them() -> None:
    found = state_dict(*small())
    expected = [[-1.5, 0.0], [-1.0, 0.5], [-0.5, 1.0]]  # (q - 3) / 2, then [out, in]
    np.testing.assert_array_equal(found["model.encoder.layers.0.self_attn.k_proj.weight"], expected)
    np.testing.assert_array_equal(
        found["model.decoder.embed_tokens.weight"][1], [-0.5, 0.0]
    )  # not transposed
    np.testing.assert_array_equal(found["model.encoder.groupnorm.bias"], [5, 5, 5, 5])


@pytest.mark.weights
def test_the_output_is_tied_to_the_embedding(originals: dict[str, bytes]) -> None:
    """Why the file's own output projection may be left out."""
    decoder = ort_format.read(originals["decoder"])
    constants = decoder.constants()
    (output, *_) = [node for node in decoder.walk() if node.name.startswith("/proj_out/")]
    weight, scale, zero_point = (constants[output.inputs[place]] for place in PRODUCTS[output.op])
    embedding = "model.decoder.embed_tokens.weight_merged_0"
    np.testing.assert_array_equal(weight.T, constants[f"{embedding}_quantized"])
    assert (scale, zero_point) == (constants[f"{embedding}_scale"], constants[f"{embedding}_zero_point"])


@pytest.mark.weights
def test_both_branches_hold_the_same_weights(originals: dict[str, bytes]) -> None:
    """With and without the cache, the decoder multiplies by the same matrices: reading one branch is enough."""
    decoder = ort_format.read(originals["decoder"])
    constants = decoder.constants()
    first, second = next(node.graphs for node in decoder.nodes if node.op == "If")
    named = [
        {n.name: constants[n.inputs[PRODUCTS[n.op][0]]] for n in graph.nodes if n.op in PRODUCTS}
        for graph in (first, second)
    ]
    shared = named[0].keys() & named[1].keys()
    assert len(shared) > 40
    for name in shared:
        np.testing.assert_array_equal(named[0][name], named[1][name])


def test_token_lengths_of_one_and_two_bytes() -> None:
    long = b"x" * 300
    table = b"\x02hi" + b"\x00" + bytes([128 + 300 % 128, 300 // 128]) + long + b"\x01!"
    assert tokens(table) == [b"hi", b"", long, b"!"]


@pytest.mark.weights
def test_the_real_tokens(originals: dict[str, bytes]) -> None:
    found = tokens(originals["tokens"])
    assert len(found) == CONFIG["vocab_size"]
    assert found[:3] == [b"<unk>", b"<s>", b"</s>"]
    assert found[3:259] == [bytes([value]) for value in range(256)]


@pytest.mark.weights
def test_the_librarys_tokenizer_reads_ours(originals: dict[str, bytes]) -> None:
    ours = tokenizer(originals["tokens"])
    loaded = Tokenizer.from_str(json.dumps(ours))
    assert loaded.get_vocab_size() == CONFIG["vocab_size"]
    vocabulary = ours["model"]["vocab"]
    ids = [1, vocabulary["\u2581the"], vocabulary["\u2581qu"], vocabulary["ick"], 3 + 0xC3, 3 + 0xA9, 2]
    assert loaded.decode(ids) == "the quické"
