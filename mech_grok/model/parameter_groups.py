"""Which part of the model a parameter belongs to, for norms by part."""

from collections.abc import Iterable

_PARTS = {
    "attn.W_Q": "W_Q",
    "attn.W_K": "W_K",
    "attn.W_V": "W_V",
    "attn.W_O": "W_O",
    "mlp.W_in": "mlp_in",
    "mlp.b_in": "mlp_in",
    "mlp.W_gate": "mlp_in",
    "mlp.b_gate": "mlp_in",
    "mlp.W_out": "mlp_out",
    "mlp.b_out": "mlp_out",
    "attn.b_Q": "W_Q",
    "attn.b_K": "W_K",
    "attn.b_V": "W_V",
    "attn.b_O": "W_O",
}


def parameter_group(name: str) -> str:
    """The part that a parameter of TransformerLens' name belongs to.

    `embed`, `pos_embed`, `unembed`, `final_norm`, and per layer `0_W_Q`, `0_W_K`, `0_W_V`, `0_W_O`,
    `0_mlp_in`, `0_mlp_out` (each with its biases) and `0_norms`, the affines of all norms of the block.
    """
    if not name.startswith("blocks."):
        owner = name.partition(".")[0]
        return "final_norm" if owner == "ln_final" else owner
    _, layer, rest = name.split(".", 2)
    return f"{layer}_{_PARTS.get(rest, 'norms')}"


def parameter_groups(names: Iterable[str]) -> dict[str, list[str]]:
    """Part -> its parameters, both in the order of the names."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(parameter_group(name), []).append(name)
    return groups
