"""VideoNeedle: questions about generated things in real footage, a video-QA set that any laptop can run.

A video has three or four scenes. Each scene shows a large thing that moves or stands, and most often a small thing
near a border, clutter, or a thing that is visible in one frame only, over footage that runs on (``static``) or is cut
hard every other frame (``fast``). Questions have one right answer and are scored by kind:

===========  =====================================================================
large        a large thing's colour, or which one a scene shows
small        the colour of a thing of about three tokens
needle       the colour of a thing that is visible in one frame
order        which large thing came before or after another one
direction    which way a large thing moves
count        how many things of a colour there are in the whole video (not asked unless named)
scene        in which scene a thing of any size is
===========  =====================================================================

The same seed gives the same set. Footage and handwriting of the test split are not used in training.
"""

from framefusion.evaluation.needle.dataset import ASKED_KINDS, NeedleQuestion, NeedleVideo, load
from framefusion.evaluation.needle.questions import QUESTION_KINDS

__all__ = ["ASKED_KINDS", "QUESTION_KINDS", "NeedleQuestion", "NeedleVideo", "load"]
