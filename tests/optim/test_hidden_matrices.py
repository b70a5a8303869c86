"""Hidden matrices of the common architectures, by the parameter names of their public implementations.

A line is a name, its shape, and on which side it belongs: "+" is a hidden matrix, "-" is left to adam. Checked as names
alone, which is what a list of named parameters tells. Vectors (norms, biases) are on no line: no name makes them one.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sabun.optim.hidden_matrices import split

ATTENTION = {f"attention.self.{part}.weight": (8, 8) for part in ("query", "key", "value")}
BERT_LAYER = {
    **ATTENTION,
    "attention.output.dense.weight": (8, 8),
    "intermediate.dense.weight": (16, 8),
    "output.dense.weight": (8, 16),
}
BERT = {
    "-bert.embeddings.word_embeddings.weight": (40, 8),
    "-bert.embeddings.position_embeddings.weight": (32, 8),
    "-bert.embeddings.token_type_embeddings.weight": (2, 8),
    **{f"+bert.encoder.layer.{n}.{name}": shape for n in (0, 11) for name, shape in BERT_LAYER.items()},
}
DISTILBERT = {
    "-distilbert.embeddings.word_embeddings.weight": (40, 8),
    "-distilbert.embeddings.position_embeddings.weight": (32, 8),
    **{
        f"+distilbert.transformer.layer.{n}.{part}.weight": (8, 8)
        for n in (0, 5)
        for part in (
            "attention.q_lin",
            "attention.k_lin",
            "attention.v_lin",
            "attention.out_lin",
            "ffn.lin1",
            "ffn.lin2",
        )
    },
}
GPT2 = {
    "-transformer.wte.weight": (40, 8),
    "-transformer.wpe.weight": (32, 8),
    **{
        f"+transformer.h.{n}.{part}.weight": (8, 24)
        for n in (0, 11)
        for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    },
}
LLAMA = {
    "-model.embed_tokens.weight": (40, 8),
    **{
        f"+model.layers.{n}.{part}_proj.weight": (8, 8)
        for n in (0, 31)
        for part in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down")
    },
}
T5 = {
    "-shared.weight": (40, 8),
    "-encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, 2),
    **{
        f"+{side}.block.{n}.layer.{part}.weight": (8, 8)
        for side in ("encoder", "decoder")
        for n in (0, 5)
        for part in (
            "0.SelfAttention.q",
            "0.SelfAttention.k",
            "0.SelfAttention.v",
            "0.SelfAttention.o",
            "1.DenseReluDense.wi_0",
            "1.DenseReluDense.wo",
        )
    },
    "+decoder.block.5.layer.1.EncDecAttention.q.weight": (8, 8),
}
VIT = {
    "-vit.embeddings.cls_token": (1, 1, 8),
    "-vit.embeddings.position_embeddings": (1, 5, 8),
    "-vit.embeddings.patch_embeddings.projection.weight": (8, 3, 4, 4),
    **{
        f"+vit.encoder.layer.{n}.{part}.weight": (8, 8)
        for n in (0, 11)
        for part in (
            "attention.attention.query",
            "attention.attention.key",
            "attention.attention.value",
            "attention.output.dense",
            "intermediate.dense",
            "output.dense",
        )
    },
}
RESNET = {
    "+conv1.weight": (64, 3, 7, 7),
    "+layer1.0.conv1.weight": (64, 64, 1, 1),
    "+layer1.0.conv2.weight": (64, 64, 3, 3),
    "+layer1.0.downsample.0.weight": (256, 64, 1, 1),
    "+layer4.2.conv3.weight": (2048, 512, 1, 1),
}
CONVNEXT = {
    "-convnext.embeddings.patch_embeddings.weight": (8, 3, 4, 4),
    "-convnext.encoder.stages.0.layers.0.dwconv.weight": (8, 1, 7, 7),
    "+convnext.encoder.stages.0.layers.0.pwconv1.weight": (32, 8),
    "+convnext.encoder.stages.0.layers.0.pwconv2.weight": (8, 32),
    "+convnext.encoder.stages.1.downsampling_layer.1.weight": (16, 8, 2, 2),
}
TABLES: dict[str, dict[str, tuple[int, ...]]] = {
    "BertModel": {**BERT, "+bert.pooler.dense.weight": (8, 8)},
    "BertForPreTraining": {
        **BERT,
        "+bert.pooler.dense.weight": (8, 8),
        "-cls.predictions.transform.dense.weight": (8, 8),
        "-cls.seq_relationship.weight": (2, 8),
    },
    "BertForSequenceClassification": {**BERT, "+bert.pooler.dense.weight": (8, 8), "-classifier.weight": (3, 8)},
    "BertForQuestionAnswering": {**BERT, "-qa_outputs.weight": (2, 8)},
    "RobertaForMaskedLM": {
        **{k.replace("bert.", "roberta.", 1): v for k, v in BERT.items()},
        "-lm_head.dense.weight": (8, 8),
    },
    "RobertaForSequenceClassification": {
        **{k.replace("bert.", "roberta.", 1): v for k, v in BERT.items()},
        "-classifier.dense.weight": (8, 8),
        "-classifier.out_proj.weight": (3, 8),
    },
    "DistilBertModel": DISTILBERT,
    "DistilBertForMaskedLM": {**DISTILBERT, "-vocab_transform.weight": (8, 8)},
    "DistilBertForSequenceClassification": {
        **DISTILBERT,
        "+pre_classifier.weight": (8, 8),
        "-classifier.weight": (3, 8),
    },
    "GPT2LMHeadModel": GPT2,
    "GPT2ForSequenceClassification": {**GPT2, "-score.weight": (3, 8)},
    "LlamaForCausalLM": {**LLAMA, "-lm_head.weight": (40, 8)},
    "LlamaModel": LLAMA,
    "Llama as first published": {
        "-tok_embeddings.weight": (40, 8),
        "+layers.0.attention.wo.weight": (8, 8),
        "+layers.0.feed_forward.w2.weight": (8, 16),
        "-output.weight": (40, 8),
    },
    "T5 tied": T5,
    "T5 untied": {**T5, "-lm_head.weight": (40, 8)},
    "ViTForImageClassification": {**VIT, "-classifier.weight": (3, 8)},
    "ViTModel": {**VIT, "+vit.pooler.dense.weight": (8, 8)},
    "DeiT with teacher": {
        **{k.replace("vit.", "deit."): v for k, v in VIT.items()},
        "-cls_classifier.weight": (3, 8),
        "-distillation_classifier.weight": (3, 8),
    },
    "timm ViT": {
        "-cls_token": (1, 1, 8),
        "-pos_embed": (1, 5, 8),
        "-patch_embed.proj.weight": (8, 3, 4, 4),
        "+blocks.0.attn.qkv.weight": (24, 8),
        "+blocks.0.attn.proj.weight": (8, 8),
        "+blocks.0.mlp.fc1.weight": (32, 8),
        "+blocks.0.mlp.fc2.weight": (8, 32),
        "-head.weight": (3, 8),
    },
    "timm DeiT distilled": {
        "-patch_embed.proj.weight": (8, 3, 4, 4),
        "+blocks.0.attn.proj.weight": (8, 8),
        "-head.weight": (3, 8),
        "-head_dist.weight": (3, 8),
    },
    "torchvision ViT": {
        "+conv_proj.weight": (8, 3, 4, 4),
        "-encoder.pos_embedding": (1, 5, 8),
        "+encoder.layers.encoder_layer_0.self_attention.in_proj_weight": (24, 8),
        "+encoder.layers.encoder_layer_0.mlp.0.weight": (32, 8),
        "-heads.head.weight": (3, 8),
    },
    "torchvision ResNet": {**RESNET, "-fc.weight": (1000, 2048)},
    "ResNet of transformers": {
        "+resnet.embedder.embedder.convolution.weight": (8, 3, 7, 7),
        "+resnet.encoder.stages.0.layers.0.layer.1.convolution.weight": (8, 8, 3, 3),
        "+resnet.encoder.stages.1.layers.0.shortcut.convolution.weight": (16, 8, 1, 1),
        "-classifier.1.weight": (3, 16),
    },
    "ConvNextForImageClassification": {**CONVNEXT, "-classifier.weight": (3, 16)},
    "torchvision ConvNeXt": {
        "+features.0.0.weight": (8, 3, 4, 4),
        "-features.1.0.block.0.weight": (8, 1, 7, 7),
        "+features.1.0.block.3.weight": (32, 8),
        "+features.1.0.block.5.weight": (8, 32),
        "-features.1.0.layer_scale": (8, 1, 1),
        "-classifier.2.weight": (3, 8),
    },
    "Swin": {
        "-swin.encoder.layers.0.blocks.0.attention.relative_position_bias_table": (9, 2),
        "+swin.encoder.layers.0.blocks.0.attention.output.dense.weight": (8, 8),
        "-classifier.weight": (3, 8),
    },
    "Mamba": {
        "-backbone.embeddings.weight": (40, 8),
        "-backbone.layers.0.mixer.A_log": (16, 4),
        "-backbone.layers.0.mixer.conv1d.weight": (16, 1, 4),
        "+backbone.layers.0.mixer.in_proj.weight": (32, 8),
        "+backbone.layers.0.mixer.out_proj.weight": (8, 16),
    },
    "a text classifier": {
        "-embedding.weight": (40, 8),
        "+lstm.weight_ih_l0": (32, 8),
        "+lstm.weight_hh_l0": (32, 8),
        "-fc.weight": (3, 8),
    },
    "a tied recurrent model": {
        "-embedding.weight": (40, 8),
        "+lstm.weight_ih_l0": (32, 8),
        "+lstm.weight_hh_l0": (32, 8),
    },
    "multi-head attention is no head": {
        "+blocks.0.multihead.in_proj_weight": (24, 8),
        "+multihead.out_proj.weight": (8, 8),
        "-head.weight": (3, 8),
    },
    "a backbone and its head in sequence": {
        "+0.conv1.weight": (8, 3, 3, 3),
        "+0.blocks.0.conv.weight": (8, 8, 3, 3),
        "-1.classifier.weight": (3, 8),
    },
}


@pytest.mark.parametrize("wrapped", ["", "module."])
@pytest.mark.parametrize("architecture", TABLES)
def test_hidden_matrices_are_those_of_the_table(architecture: str, wrapped: str) -> None:
    table = TABLES[architecture]
    named = [(wrapped + name[1:], torch.zeros(shape)) for name, shape in table.items()]
    hidden, rest = ([name.removeprefix(wrapped) for name, _ in side] for side in split(named))
    assert hidden == [name[1:] for name in table if name[0] == "+"]
    assert rest == [name[1:] for name in table if name[0] == "-"]


def test_a_module_and_its_names_agree() -> None:
    """Also where weights are tied, which names alone cannot tell."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wte = nn.Embedding(40, 8)
            self.h = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Conv1d(8, 8, 3, groups=8)) for _ in range(2))
            self.lm_head = nn.Linear(8, 40, bias=False)
            self.lm_head.weight = self.wte.weight

    model = Tied()
    by_module, by_name = split(model), split(list(model.named_parameters()))
    for a, b in zip(by_module, by_name, strict=True):
        assert [n for n, _ in a] == [n for n, _ in b]
    assert [n for n, _ in by_module[0]] == ["h.0.0.weight", "h.1.0.weight"]
