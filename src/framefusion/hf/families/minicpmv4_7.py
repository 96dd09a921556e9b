"""MiniCPM-V 4.7: lies in the sequence as MiniCPM-V 4.6 does, with positions in two dimensions."""

from __future__ import annotations

from framefusion.hf.families.minicpmv4_6 import MiniCPMV46


class MiniCPMV47(MiniCPMV46):
    name = "MiniCPM-V 4.7"
    model_classes = ("MiniCPMV4_7ForConditionalGeneration", "MiniCPMV4_7Model")
    grows = False  # all frames share one canvas, whose size depends on how many there are
    closing = 1
