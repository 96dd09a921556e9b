"""Methods: published rules, controls and ours, each as settings for a budget. One small file each.

>>> METHODS["fastv"].settings(budget=0.2, layers=28)  # doctest: +SKIP

A method is a name for settings, no code of its own: the rules are in :mod:`framefusion.reduction.selectors`. The
budget is the layer-averaged share of visual tokens, so that methods that start at different depths can be compared.
"""

from __future__ import annotations

from framefusion.evaluation.methods import (
    ablations,
    cdpruner,
    divprune,
    evs,
    fastv,
    fastvid,
    fewer_frames,
    flashvid,
    floc,
    forestprune,
    framefusion,
    full,
    hieravid,
    holitom,
    low_resolution,
    one_frame_a_scene,
    pyramiddrop,
    random,
    scissor,
    segment_dpp,
    sttm,
    text_only,
    unicomp,
    uniform,
    v_cast,
    vidcom2,
)
from framefusion.evaluation.methods.method import BudgetError, Kind, Method

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        full.METHOD,
        text_only.METHOD,
        random.METHOD,
        uniform.METHOD,
        fewer_frames.METHOD,
        one_frame_a_scene.METHOD,
        low_resolution.METHOD,
        fastv.METHOD,
        framefusion.METHOD,
        *cdpruner.METHODS,
        divprune.METHOD,
        evs.METHOD,
        vidcom2.METHOD,
        *fastvid.METHODS,
        holitom.METHOD,
        floc.METHOD,
        unicomp.METHOD,
        forestprune.METHOD,
        v_cast.METHOD,
        flashvid.METHOD,
        scissor.METHOD,
        sttm.METHOD,
        pyramiddrop.METHOD,
        hieravid.METHOD,
        *segment_dpp.METHODS,
        *ablations.METHODS,
    )
}
"""Every method by name: controls, published rules, ours, ablations."""

__all__ = ["METHODS", "BudgetError", "Kind", "Method"]
