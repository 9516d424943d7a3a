"""The architecture of the paper's code, written again as a plain function of its parameters.

Facts from github.com/jaisidhsingh/layernorm-grok (names, shapes, eps, what each `ln_type` reads), in
torch's own attention and norms: an oracle that shares nothing with the package under test.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

DEFAULTS: dict[str, Any] = {
    "d_model": 16,
    "seq_len": 3,
    "n_heads": 2,
    "n_layers": 1,
    "ln_fn": "og",
    "ln_type": "off",
    "mlp_type": "ff",
    "mlp_r": 4,
    "mlp_act": "relu",
    "kernel_init": "lecun",
    "final_ln": "off",
    "P": 7,
    "output_scaling": 1.0,
    "unembed": "separate",
    "weight_init_scale": 1.0,
    "use_softmax_temp": False,
}
LN_TYPES = (
    "off pre attn-pre attn-pre-qk attn-pre-v pre-v mlp-pre mlp-inpnorm post peri".split()  # noqa: SIM905
)

# What q, k, v and the MLP read, for the arrangements that norm inputs only.
_READS = {
    "off": ("", "", "", ""),
    "pre": ("ln1", "ln1", "ln1", "ln2"),
    "attn-pre": ("ln1", "ln1", "ln1", ""),
    "attn-pre-qk": ("ln1", "ln1", "", ""),
    "attn-pre-v": ("", "", "ln1", ""),
    "pre-v": ("", "", "ln1", "ln2"),
    "mlp-pre": ("", "", "", "ln2"),
    "mlp-inpnorm": ("", "", "", "unit"),
    "post": ("", "", "", ""),
    "peri": ("ln1", "ln1", "ln1", "ln3"),
}


def parameter_shapes(cfg: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every parameter that the reference builds for this config, read or not."""
    d, m, classes = cfg["d_model"], cfg["d_model"] * cfg["mlp_r"], cfg["P"] + 1
    shapes: dict[str, tuple[int, ...]] = {"embed.weight": (classes, d), "pos_emb": (3, d)}
    layers = {"fc1": (m, d), "fc2": (d, m)} if cfg["mlp_type"] == "ff" else {}
    layers = layers or {"fc1": (m, d), "fc2": (m, d), "fc3": (d, m)}
    norms = [] if cfg["ln_type"] == "off" else ["ln1", "ln2"]
    norms += ["ln3", "ln4"] if cfg["ln_type"] == "peri" else []
    leaves = ("weight", "bias") if cfg["ln_fn"] == "og" else ("weight",)
    for layer in range(cfg["n_layers"]):
        own: dict[str, tuple[int, ...]] = {"attn.in_proj_weight": (3 * d, d), "attn.out_proj.weight": (d, d)}
        for name, (n_out, n_in) in layers.items():
            own |= {f"mlp.{name}.weight": (n_out, n_in), f"mlp.{name}.bias": (n_out,)}
        own |= {f"{norm}.{leaf}": (d,) for norm in norms for leaf in leaves}
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in own.items()}
    if cfg["final_ln"] != "off":
        shapes |= {f"final_ln.{leaf}": (d,) for leaf in leaves}
    if cfg["unembed"] == "separate":
        shapes["unembed.weight"] = (d, classes)
    return shapes


def random_parameters(cfg: Mapping[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Float64 weights, gains and biases included, large enough that every part of the model matters."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64) * shape[-1] ** -0.5
        + (name.endswith("weight") and len(shape) == 1)
        for name, shape in parameter_shapes(cfg).items()
    }


def reference_logits(state: Mapping[str, Tensor], cfg: Mapping[str, Any], tokens: Tensor) -> Tensor:
    """Logits [batch, P + 1] at the last position."""
    x = F.embedding(tokens, state["embed.weight"]) + state["pos_emb"]
    for layer in range(cfg["n_layers"]):
        prefix = f"layers.{layer}."
        block = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        x = _block(x, block, cfg)
    if cfg["final_ln"] != "off":
        x = _norm(x, state, "final_ln", cfg, 1e-5)
    w_u = state["embed.weight"].T if cfg["unembed"] == "tied" else state["unembed.weight"]
    logits = x[:, -1] @ w_u
    return logits if cfg["use_softmax_temp"] else cfg["output_scaling"] * logits


def _block(x: Tensor, block: Mapping[str, Tensor], cfg: Mapping[str, Any]) -> Tensor:
    # ln1 and ln2 are built with eps 0; ln3 and ln4 with torch's default.
    late = 1e-5 if cfg["ln_fn"] == "og" else None

    def named(name: str, eps: float | None = 0.0) -> Callable[[Tensor], Tensor]:
        if name == "unit":
            return lambda y: F.normalize(y, dim=-1)
        return lambda y: _norm(y, block, name, cfg, eps) if name else y

    kind = cfg["ln_type"]
    q, k, v, m = _READS[kind]
    attn = _attention(named(q)(x), named(k)(x), named(v)(x), block, cfg)
    x = x + (named("ln2")(attn) if kind == "peri" else attn)
    x = named("ln1")(x) if kind == "post" else x
    mlp = _mlp(named(m, late if m == "ln3" else 0.0)(x), block, cfg)
    x = x + (named("ln4", late)(mlp) if kind == "peri" else mlp)
    return named("ln2")(x) if kind == "post" else x


def _attention(
    q: Tensor, k: Tensor, v: Tensor, block: Mapping[str, Tensor], cfg: Mapping[str, Any]
) -> Tensor:
    out, _ = F.multi_head_attention_forward(
        *(x.transpose(0, 1) for x in (q, k, v)),
        embed_dim_to_check=cfg["d_model"],
        num_heads=cfg["n_heads"],
        in_proj_weight=block["attn.in_proj_weight"],
        in_proj_bias=None,
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=block["attn.out_proj.weight"],
        out_proj_bias=None,
    )
    return out.transpose(0, 1)


def _mlp(x: Tensor, block: Mapping[str, Tensor], cfg: Mapping[str, Any]) -> Tensor:
    def fc(i: int, y: Tensor) -> Tensor:
        return F.linear(y, block[f"mlp.fc{i}.weight"], block[f"mlp.fc{i}.bias"])

    if cfg["mlp_type"] == "glu":
        return fc(3, fc(2, x) * F.silu(fc(1, x)))
    return fc(2, getattr(F, cfg["mlp_act"])(fc(1, x)))


def _norm(
    x: Tensor, state: Mapping[str, Tensor], name: str, cfg: Mapping[str, Any], eps: float | None
) -> Tensor:
    width, gain = (cfg["d_model"],), state[f"{name}.weight"]
    if cfg["ln_fn"] == "rms":
        return F.rms_norm(x, width, gain, eps)
    return F.layer_norm(x, width, gain, state[f"{name}.bias"], eps or 0.0)
