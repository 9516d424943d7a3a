"""What is patched at a time: named groups of hook points."""

from dataclasses import dataclass

from transformer_lens import HookedTransformer

from mech_grok.placement import PATHWAYS

LOGITS = "unembed.hook_out"
"""Hook point of the logits, after final norm, W_U and readout scale."""


@dataclass(frozen=True)
class Component:
    """Activations that are patched together.

    Attributes:
        names: their hook points.
        heads: of attention, at every one of the hook points; None for whatever is there.
        positions: 0 for a, 1 for b, 2 for `=` (of a pattern: of its queries); None for all three.
    """

    names: tuple[str, ...]
    heads: tuple[int, ...] | None = None
    positions: tuple[int, ...] | None = None

    def __str__(self) -> str:
        chosen = [
            f"{what} {', '.join(map(str, values))}"
            for what, values in (("head", self.heads), ("position", self.positions))
            if values is not None
        ]
        return " + ".join(self.names) + (f" [{'; '.join(chosen)}]" if chosen else "")


def default_components(model: HookedTransformer) -> dict[str, Component]:
    """Every part of a `GrokTransformer`, from the embedding to the logits, by the name that it is given.

    Of layer 0 and its pathway q: `L0.q.scale` (what the norm divides by), `L0.q.normalized` (before gain and
    bias), `L0.q.read` (what W_Q reads). Then `L0.queries`, `L0.keys`, `L0.values`, `L0.pattern`, `L0H2` (z of
    head 2), `L0.attn_out`, `L0.resid_mid`, `L0.mlp_post` (neurons), `L0.mlp_out`, `L0.resid_post`.
    `embed` is the token embedding, `everything` the logits.

    A patched `L0.resid_post` of the last layer is still read by the final norm and the W_U of the model that
    it is patched into; `everything` replaces those too, so that it gives the clean model.
    """
    layers = [_of_layer(layer, model.cfg.n_heads) for layer in range(model.cfg.n_layers)]
    hook_points = {"embed": "hook_embed"} | {k: v for of_layer in layers for k, v in of_layer.items()}
    found = {label: _component(hook_point) for label, hook_point in hook_points.items()}
    return {**found, "everything": Component((LOGITS,))}


def _component(hook_point: str | tuple[str, int]) -> Component:
    if isinstance(hook_point, str):
        return Component((hook_point,))
    name, head = hook_point
    return Component((name,), heads=(head,))


def _of_layer(layer: int, n_heads: int) -> dict[str, str | tuple[str, int]]:
    """Label -> hook point, or hook point and head, in the order of the forward pass."""
    label, block = f"L{layer}", f"blocks.{layer}"
    *attention, mlp = [_of_norm(f"{label}.{x}", f"{block}.norm_{x}") for x in PATHWAYS]
    return {
        **{k: v for of_norm in attention for k, v in of_norm.items()},
        f"{label}.queries": f"{block}.attn.hook_q",
        f"{label}.keys": f"{block}.attn.hook_k",
        f"{label}.values": f"{block}.attn.hook_v",
        f"{label}.pattern": f"{block}.attn.hook_pattern",
        **{f"{label}H{head}": (f"{block}.attn.hook_z", head) for head in range(n_heads)},
        f"{label}.attn_out": f"{block}.hook_attn_out",
        f"{label}.resid_mid": f"{block}.hook_resid_mid",
        **mlp,
        f"{label}.mlp_post": f"{block}.mlp.hook_post",
        f"{label}.mlp_out": f"{block}.hook_mlp_out",
        f"{label}.resid_post": f"{block}.hook_resid_post",
    }


def _of_norm(label: str, norm: str) -> dict[str, str]:
    return {
        f"{label}.scale": f"{norm}.hook_scale",
        f"{label}.normalized": f"{norm}.hook_normalized",
        f"{label}.read": f"{norm}.hook_out",
    }
