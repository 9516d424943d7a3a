"""Import of weights from the paper's own code (github.com/jaisidhsingh/layernorm-grok)."""

from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor

from mech_grok.config import ModelConfig
from mech_grok.model.transformer import GrokTransformer
from mech_grok.placement import Placement

# The reference's ln1..ln4 under the keys of this project, by arrangement; a gain that its forward pass
# never reads (ln2 of attn-pre, ln1 of mlp-pre, ...) has no key here and is left out.
_AFFINE_KEYS = {
    "pre": {"ln1": "ln1", "ln2": "ln2"},
    "post": {"ln1": "ln1", "ln2": "ln2"},
    "peri": {"ln1": "ln1", "ln2": "ln1_post", "ln3": "ln2", "ln4": "ln2_post"},
    "mlp-inpnorm": {},
}
_FINAL_NORM = {"off": "off", "center_only": "frozen"}
_NORMS = {"og": "ln", "rms": "rms"}
_FIELDS = {
    *("P", "d_model", "n_heads", "n_layers", "mlp_r", "mlp_type", "mlp_act", "ln_fn", "ln_type", "final_ln"),
    *("kernel_init", "weight_init_scale", "unembed", "output_scaling", "use_softmax_temp"),
}


def import_reference(state_dict: Mapping[str, Tensor], model_config: Mapping[str, object]) -> GrokTransformer:
    """A `GrokTransformer` with the weights of the reference's `Transformer`.

    Args:
        state_dict: parameters under the reference's names (`layers.0.attn.in_proj_weight`, ...).
        model_config: fields of the reference's `TransformerConfig` (`ln_type`, `P`, `mlp_r`, ...).

    Raises:
        ValueError: a parameter is missing, has the wrong shape, or is one that this variant does not have;
            or the config is not one of the reference's.
    """
    config = reference_model_config(model_config)
    dtype = state_dict["embed.weight"].dtype if "embed.weight" in state_dict else torch.float32
    p = int(str(model_config["P"]))
    remaining = dict(state_dict)
    translated = _translate(remaining, config, p + 1)
    unused = set(remaining) - _never_read(config)
    if unused:
        raise ValueError(
            f"parameters that a {config.placement} model does not have: {', '.join(sorted(unused))}"
        )
    model = GrokTransformer(config, p, dtype=dtype)
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in translated.items():
            own[name].copy_(value)
    return model


def reference_model_config(fields: Mapping[str, object]) -> ModelConfig:
    """The `ModelConfig` of the reference's `TransformerConfig` fields.

    Raises:
        ValueError: a field is missing, or has a value that no model here has.
    """
    missing = _FIELDS - set(fields)
    if missing:
        raise ValueError(f"the model config has no {', '.join(sorted(missing))}")
    return ModelConfig.model_validate(
        {
            "placement": Placement.parse(str(fields["ln_type"])),
            "norm": _NORMS.get(str(fields["ln_fn"]), fields["ln_fn"]),
            "n_layers": fields["n_layers"],
            "d_model": fields["d_model"],
            "n_heads": fields["n_heads"],
            "mlp_ratio": fields["mlp_r"],
            "activation": "swiglu" if fields["mlp_type"] == "glu" else fields["mlp_act"],
            "init": fields["kernel_init"],
            "init_scale": fields["weight_init_scale"],
            "final_norm": _FINAL_NORM.get(str(fields["final_ln"]), "on"),
            "tied_unembed": fields["unembed"] == "tied",
            "readout_scale": fields["output_scaling"],
            "scale_in_loss": fields["use_softmax_temp"],
        }
    )


def _translate(state: dict[str, Tensor], config: ModelConfig, classes: int) -> dict[str, Tensor]:
    """Pop every parameter that the model reads out of `state`, under this project's names and shapes."""
    d = config.d_model
    out = {
        "embed.W_E": _pop(state, "embed.weight", classes, d),
        "pos_embed.W_pos": _pop(state, "pos_emb", 3, d),
    }
    for layer in range(config.n_layers):
        for key, value in _translate_block(state, f"layers.{layer}", config).items():
            out[f"blocks.{layer}.{key}"] = value
    if config.final_norm != "off":
        out |= _affine(state, "final_ln", "ln_final", config)
    if not config.tied_unembed:
        out["unembed.W_U"] = _pop(state, "unembed.weight", d, classes)
    return out


def _translate_block(state: dict[str, Tensor], prefix: str, config: ModelConfig) -> dict[str, Tensor]:
    heads, d, m = config.n_heads, config.d_model, config.d_mlp
    qkv = _pop(state, f"{prefix}.attn.in_proj_weight", 3 * d, d)
    q, k, v = rearrange(qkv, "(three h e) d -> three h d e", three=3, h=heads)
    w_o = rearrange(_pop(state, f"{prefix}.attn.out_proj.weight", d, d), "d (h e) -> h e d", h=heads)
    out = {"attn.W_Q": q, "attn.W_K": k, "attn.W_V": v, "attn.W_O": w_o}
    layers = {"fc1": "gate", "fc2": "in", "fc3": "out"} if config.gated_mlp else {"fc1": "in", "fc2": "out"}
    for theirs, ours in layers.items():
        n_out, n_in = (d, m) if ours == "out" else (m, d)
        out[f"mlp.W_{ours}"] = _pop(state, f"{prefix}.mlp.{theirs}.weight", n_out, n_in).T
        out[f"mlp.b_{ours}"] = _pop(state, f"{prefix}.mlp.{theirs}.bias", n_out)
    for theirs, ours in _read_affines(config).items():
        out |= _affine(state, f"{prefix}.{theirs}", ours, config)
    return out


def _affine(state: dict[str, Tensor], theirs: str, ours: str, config: ModelConfig) -> dict[str, Tensor]:
    out = {f"{ours}.w": _pop(state, f"{theirs}.weight", config.d_model)}
    if config.norm == "ln":
        out[f"{ours}.b"] = _pop(state, f"{theirs}.bias", config.d_model)
    return out


def _read_affines(config: ModelConfig) -> dict[str, str]:
    placement = config.placement
    keys = _AFFINE_KEYS[placement.arrangement]
    if placement.arrangement != "pre":
        return keys
    read = {"ln2"} if "mlp" in placement.pathways else set()
    read |= {"ln1"} if placement.pathways - {"mlp"} else set()
    return {theirs: ours for theirs, ours in keys.items() if theirs in read}


def _never_read(config: ModelConfig) -> set[str]:
    """Gains and biases that the reference builds for this placement and never uses."""
    built = [] if config.placement.specifier == "off" else ["ln1", "ln2"]
    unread = [name for name in built if name not in _read_affines(config)]
    return {
        f"layers.{layer}.{name}.{leaf}"
        for layer in range(config.n_layers)
        for name in unread
        for leaf in (("weight", "bias") if config.norm == "ln" else ("weight",))
    }


def _pop(state: dict[str, Tensor], name: str, *shape: int) -> Tensor:
    if name not in state:
        raise ValueError(f"the state dict has no parameter '{name}'")
    value = state.pop(name)
    if value.shape != shape:
        raise ValueError(f"'{name}' has shape {tuple(value.shape)}, expected {shape}")
    return value
