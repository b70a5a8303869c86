"""The hidden matrices of modules: families of transformers, and layers that users write themselves.

Written by hand: a line is a model, the parameters of two dimensions and more that belong to the rest (patterns of
their names), and those that are stacks. Every other parameter of two dimensions and more must be a hidden matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from sabun.optim.hidden_matrices import find_parts

WIDTHS = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 16,
}  # fmt: skip
GROUPED = {**WIDTHS, "num_key_value_heads": 1}
SEQ2SEQ = {
    "vocab_size": 40, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
VISION = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
IMAGE = {**VISION, "image_size": 8, "patch_size": 4}


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], outputs: int, vocabulary: int = 0) -> None:
        super().__init__()
        self.symbols = nn.Embedding(vocabulary, 6) if vocabulary else None
        self.cells = kind(6, 8, num_layers=2)
        self.fc = nn.Linear(8, outputs)


class Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own, self.neighbours = nn.Linear(5, 8), nn.Linear(5, 8, bias=False)
        self.attention = nn.Parameter(torch.zeros(1, 8))
        self.out = nn.Linear(8, 3)


class UNet(nn.Module):
    def __init__(self, channels: int, kind: type[nn.Module] = nn.Conv2d, up: type[nn.Module] = nn.ConvTranspose2d):
        super().__init__()
        self.down = nn.ModuleList([kind(3, 8, 3), kind(8, 16, 3)])
        self.up = nn.ModuleList([up(16, 8, 2), kind(16, 8, 3)])
        self.last = kind(8, channels, 1)


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.zeros(4, 8, 16)), nn.Parameter(torch.zeros(4, 16, 8))


class Mixture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts, self.head = nn.Linear(8, 4), Experts(), nn.Linear(8, 3)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.inner, self.decoder = nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 9)
        self.decoder.weight = self.table.weight


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8))
        self.heads = nn.ModuleDict({"left": nn.Linear(8, 3), "right": nn.Linear(8, 1)})


class Lora(nn.Module):
    """A linear layer with an adapter, named and frozen as by PEFT."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.base_layer = nn.Linear(columns, rows)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(columns, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, rows, bias=False)})
        self.base_layer.requires_grad_(False)


class Adapted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(9, 8).requires_grad_(False)
        self.layers = nn.ModuleList(nn.ModuleDict({"q_proj": Lora(8, 8), "v_proj": Lora(8, 8)}) for _ in range(2))
        self.lm_head = nn.Linear(8, 9).requires_grad_(False)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(1, 6, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16)
        self.output = nn.Linear(8, 1)


class Wrapped(nn.Module):
    """A network under a name that a head would have."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.classifier = network


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mixing, self.relative = nn.Parameter(torch.zeros(8, 8)), nn.Parameter(torch.zeros(2, 6, 6))
        self.fc = nn.Linear(8, 3)


def mlp(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs))


def separable() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 16, 1), nn.Flatten(),
                         nn.Linear(16, 4))  # fmt: skip


EMBEDDED = "*embed*"
Model = tuple[Callable[[], nn.Module], str, str]
MODELS: dict[str, Model] = {
    "Bert for classes": (
        lambda: hf.BertForSequenceClassification(hf.BertConfig(**WIDTHS)), f"{EMBEDDED} classifier.*", ""
    ),
    "Bert, masked": (lambda: hf.BertForMaskedLM(hf.BertConfig(**WIDTHS)), f"{EMBEDDED} cls.*", ""),
    "Bert": (lambda: hf.BertModel(hf.BertConfig(**WIDTHS)), EMBEDDED, ""),
    "Roberta": (
        lambda: hf.RobertaForSequenceClassification(hf.RobertaConfig(**WIDTHS)), f"{EMBEDDED} classifier.*", ""
    ),
    "Electra": (
        lambda: hf.ElectraForSequenceClassification(hf.ElectraConfig(**WIDTHS)), f"{EMBEDDED} classifier.*", ""
    ),
    "Albert": (lambda: hf.AlbertModel(hf.AlbertConfig(**WIDTHS, embedding_size=8)), EMBEDDED, ""),
    "DistilBert": (
        lambda: hf.DistilBertForSequenceClassification(
            hf.DistilBertConfig(vocab_size=40, dim=16, n_layers=1, n_heads=2, hidden_dim=32)
        ),
        f"{EMBEDDED} classifier.*", "",
    ),
    "GPT-2": (
        lambda: hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=40, n_positions=8, n_embd=16, n_layer=1, n_head=2)),
        "*.wte.* *.wpe.*", "",
    ),
    "GPT-NeoX": (lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**WIDTHS)), f"{EMBEDDED} lm_head.*", ""),
    "Bloom": (
        lambda: hf.BloomForCausalLM(hf.BloomConfig(vocab_size=40, hidden_size=16, n_layer=1, n_head=2)), EMBEDDED, ""
    ),
    "Llama": (lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED)), f"{EMBEDDED} lm_head.*", ""),
    "Llama, a reward": (
        lambda: hf.LlamaForSequenceClassification(hf.LlamaConfig(**GROUPED, num_labels=1)), f"{EMBEDDED} score.*", ""
    ),
    "Mistral": (lambda: hf.MistralForCausalLM(hf.MistralConfig(**GROUPED, head_dim=8)), f"{EMBEDDED} lm_head.*", ""),
    "Qwen2": (lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**GROUPED)), f"{EMBEDDED} lm_head.*", ""),
    "Gemma, tied": (lambda: hf.GemmaForCausalLM(hf.GemmaConfig(**GROUPED, head_dim=8)), EMBEDDED, ""),
    "Phi": (lambda: hf.PhiForCausalLM(hf.PhiConfig(**WIDTHS)), f"{EMBEDDED} lm_head.*", ""),
    "Mixtral": (
        lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**GROUPED, head_dim=8, num_local_experts=4)),
        f"{EMBEDDED} lm_head.*", "*.experts.*",
    ),
    "T5": (
        lambda: hf.T5ForConditionalGeneration(
            hf.T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        ),
        "shared.* *.relative_attention_bias.* lm_head.*", "",
    ),
    "Bart": (lambda: hf.BartForConditionalGeneration(hf.BartConfig(**SEQ2SEQ)), f"{EMBEDDED} *.shared.*", ""),
    "Whisper": (
        lambda: hf.WhisperForConditionalGeneration(hf.WhisperConfig(**SEQ2SEQ, num_mel_bins=8)), EMBEDDED, ""
    ),
    "ViT": (lambda: hf.ViTForImageClassification(hf.ViTConfig(**IMAGE)), f"{EMBEDDED} classifier.*", ""),
    "Swin": (
        lambda: hf.SwinForImageClassification(
            hf.SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4)
        ),
        f"{EMBEDDED} classifier.* *.relative_position_bias_table", "",
    ),
    "ConvNeXt": (
        lambda: hf.ConvNextForImageClassification(hf.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)),
        f"{EMBEDDED} classifier.* *.dwconv.*", "",
    ),
    "ResNet": (
        lambda: hf.ResNetForImageClassification(hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])),
        "classifier.*", "",
    ),
    "MLP": (lambda: mlp(3), "4.weight", ""),
    "MLP, one output": (lambda: mlp(1), "4.weight", ""),
    "LSTM": (lambda: Recurrent(nn.LSTM, 3), "fc.weight", ""),
    "LSTM over text": (lambda: Recurrent(nn.LSTM, 3, 9), "fc.weight symbols.*", ""),
    "GRU, one output": (lambda: Recurrent(nn.GRU, 1), "fc.weight", ""),
    "GRU over text, one output": (lambda: Recurrent(nn.GRU, 1, 9), "fc.weight symbols.*", ""),
    "RNN": (lambda: Recurrent(nn.RNN, 2), "fc.weight", ""),
    "graph layers": (Graph, "attention out.weight", ""),
    "U-Net": (lambda: UNet(2), "last.weight", ""),
    "U-Net, one channel": (lambda: UNet(1), "last.weight", ""),
    "U-Net in one dimension": (lambda: UNet(2, nn.Conv1d, nn.ConvTranspose1d), "last.weight", ""),
    "U-Net in three dimensions": (lambda: UNet(2, nn.Conv3d, nn.ConvTranspose3d), "last.weight", ""),
    "separable convolutions": (separable, "1.weight 4.weight", ""),
    "mixture of experts": (Mixture, "head.weight", "experts.*"),
    "tied": (Tied, "table.weight", ""),
    "several heads": (Several, "heads.*", ""),
    "LoRA": (Adapted, "embed_tokens.* lm_head.*", ""),
    "attention, one output": (Attention, "positions output.weight", ""),
    "wrapped": (lambda: Wrapped(mlp(3)), "classifier.4.weight", ""),
    "bare parameters of three dimensions": (Bare, "relative fc.weight", ""),
    "one layer": (lambda: nn.Linear(4, 3), "", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_hidden_matrices_of_a_model(name: str) -> None:
    make, rest, stacks = MODELS[name]
    model = make()
    expected = {}
    for parameter, p in model.named_parameters():
        if p.ndim > 1 and not any(fnmatchcase(parameter, pattern) for pattern in rest.split()):
            stacked = any(fnmatchcase(parameter, pattern) for pattern in stacks.split())
            expected[parameter] = "stack" if stacked else "matrix"

    def parts(groups: list[list[tuple[str, Tensor]]], *modules: nn.Module) -> dict[str, str]:
        found = find_parts(groups, modules=modules)
        pairs = model.named_parameters()
        return {name: found.layouts[id(p)] for name, p in pairs if id(p) in found.hidden}

    assert parts([list(model.named_parameters())], model) == expected
    # The same without the model, without names, in groups of any order, and of what is trained alone.
    bare = [("", p) for p in model.parameters()]
    assert parts([bare[1::2], bare[::2]]) == expected
    trained = [("", p) for p in model.parameters() if p.requires_grad]
    ids = {id(p) for _, p in trained}
    trainable = {name for name, p in model.named_parameters() if id(p) in ids}
    assert parts([trained[::-1]]) == {name: part for name, part in expected.items() if name in trainable}


def test_a_frozen_backbone_does_not_make_the_head_hidden_and_each_of_two_networks_is_seen_by_itself() -> None:
    model = mlp(3)
    for p in list(model.parameters())[:-2]:
        p.requires_grad_(False)
    assert not find_parts([[("", p) for p in list(model.parameters())[-2:]]]).hidden
    pair = nn.ModuleDict({"generator": mlp(4), "discriminator": mlp(1)})
    for network in pair.values():
        hidden = find_parts([[("", p) for p in network.parameters()]]).hidden
        assert hidden == {id(network[0].weight), id(network[2].weight)}
