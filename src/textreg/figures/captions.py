"""What stands below each figure: one or two sentences without numbers.

An alternative text says in words and numbers what a drawing shows, for who cannot see it; a caption says what to look
for, for who can.  So the two are written apart.
"""

from collections.abc import Mapping
from types import MappingProxyType

CAPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "1_language_fidelity": "LF per prompt language, with the image: the counterpart of the paper's Fig. 1.",
        "2_mixture": (
            "Languages of our text rows, spread evenly, and our shares beside those that the caption of the paper's "
            "Fig. 2 names."
        ),
        "3_intervals": (
            "From LF+ (hollow) to LF (filled): the longer a bar, the more answers mix languages or break the grammar."
        ),
        "4_frontier": (
            "Fidelity against seeing as lambda falls from 1, the tuned arm. The axes do not begin at 0, and the "
            "vertical one may be broken."
        ),
        "5_arms": "The same requests with the image, with a blank image and as text alone; IFL is text minus image.",
        "6_confusion": "Asked language (rows) by answered language (columns), scored answers with the image.",
        "7_losses": "Training loss of every arm; arms train on different rows, so that levels compare within an arm.",
        "8_gallery": "The first test images, not chosen ones, with the answers of three systems.",
        "9_grounding": "LF, LF+ and GF side by side, with the image, means over the languages other than English.",
        "10_held_out": "Languages in the text rows against one that was left out of them, with the image.",
    }
)


#: The frontier of test images ends in a system that the sweep of validation images does not have.
BACKBONE_END = "The end at lambda 0 is the system backbone, whose projector comes from alignment and not from tuning."
