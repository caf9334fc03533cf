"""What the papers print, and what they claim: the numbers that docs/results.md sets ours beside."""

from __future__ import annotations

from dataclasses import dataclass

# CrackForest (cfd), 0..1. Neither paper says by which tolerance its F1 was counted; SCNet's protocol is strict on another set.
PRINTED: dict[str, dict[str, float]] = {
    "SCNet, full width, its paper": {"best_f1": 0.9040, "patch_f1": 0.9662},
    "DeepCrack (Liu), in SCNet's paper": {"best_f1": 0.8442},
    "HCNN, in SCNet's paper": {"best_f1": 0.7991},
    "CACPNet, full width, its paper": {"best_f1_frame_mean": 0.9491, "iou": 0.721},
    "SegNet, in CACPNet's paper": {"best_f1_frame_mean": 0.8516, "iou": 0.557},
}
# SCNet's Table V: trained on -> tested on -> F1
CROSS: dict[str, dict[str, float]] = {
    "DeepCrack": {"DeepCrack": 0.9123, "CrackForest": 0.6359, "CODEBRIM": 0.4214, "METU": 0.5845},
    "CrackForest": {"DeepCrack": 0.6489, "CrackForest": 0.9040, "CODEBRIM": 0.4238, "METU": 0.5720},
    "CODEBRIM": {"DeepCrack": 0.6308, "CrackForest": 0.6364, "CODEBRIM": 0.6422, "METU": 0.5679},
    "METU": {"DeepCrack": 0.6578, "CrackForest": 0.6448, "CODEBRIM": 0.5132, "METU": 0.6913},
}


@dataclass(frozen=True)
class Claim:
    """One variant of an ablation is better than another.

    Attributes:
        text: the claim.
        family: a key of `plan.VARIANTS`.
        better: the variant that the paper says is better.
        worse: the other one.
        metric: the paper's, as `edgecrack evaluate` names it.
        printed: what the paper prints for it, in words.
    """

    text: str
    family: str
    better: str
    worse: str
    metric: str
    printed: str


AELF, SCNET, CACPNET = "f0.3_frame_mean", "best_f1", "best_f1_2px_frame_mean"
CLAIMS = (
    Claim("AELF over the exponential loss", "aelf", "aelf", "exponential", AELF, "+0.025, mean of 5 sets"),
    Claim(
        "exponential loss over cross-entropy", "aelf", "exponential", "cross-entropy", AELF, "+0.008, mean of 5 sets"
    ),
    Claim("AELF over cross-entropy", "aelf", "aelf", "cross-entropy", AELF, "+0.033, mean of 5 sets"),
    Claim("AELF over Dice", "aelf", "aelf", "dice", AELF, "not printed"),
    Claim("AELF over focal", "aelf", "aelf", "focal", AELF, "not printed"),
    Claim("deep head over shallow, cross-entropy", "aelf", "cross-entropy", "shallow", AELF, "+0.014, mean of 5 sets"),
    Claim("SCNet: attention", "scnet", "full", "no-attention", SCNET, "+0.064 on CrackForest"),
    Claim(
        "SCNet: focal over cross-entropy", "scnet", "full", "no-focal", SCNET, "+0.018 on CrackForest, with soft IoU"
    ),
    Claim("SCNet: soft IoU", "scnet", "full", "no-soft-iou", SCNET, "+0.012 on CrackForest"),
    Claim("SCNet: an edge prior (ours, cheap)", "scnet", "cheap-prior", "full", SCNET, "+0.016 on CrackForest, HED"),
    Claim("CACPNet: attention", "cacpnet", "no-pyramid", "neither", CACPNET, "+0.069 on CFD"),
    Claim("CACPNet: pyramid", "cacpnet", "full", "no-pyramid", CACPNET, "+0.029 on CFD"),
)
