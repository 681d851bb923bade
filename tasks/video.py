"""Segmentation of video: a class for every pixel of every frame of a clip, from temporal latents."""

from cml.tasks.volumes import VolumeSegmentation


class VideoSegmentation(VolumeSegmentation):
    """What is in each frame?

        clip (3, 8, y, x) --codec and view--> tokens of 4 frames x `patch` x `patch` pixels --VolumeNet--> classes

    As `VolumeSegmentation`, with clips for volumes: a token stands for four frames, as the latents of codecs of video
    do, and the ceiling has half as long a patch in the picture, not in time. Every frame of a clip is labelled and
    counts; intervals are over clips.

    Of CamVid, frames with labels are a second apart: these are clips at one frame a second of a driving car, in which
    little stays where it was. It is what is labelled, and a hard case for latents that hold four frames.

    Args:
        data: "folder-seg:PATH" of frames whose names end in numbers.
        backbone, size, epochs: as for `VolumeSegmentation`; None epochs for 20.
    """

    name = "video"
    version = 1
    spacing = (1, 2, 2)
    reach = (0, 3, 3)
    repeats = 1
    usual_epochs = 20
    batch_size, lr = 2, 2e-3
    block = None
    background = None
    needs = "folder-seg:PATH, folders of numbered frames and their label maps"

    def token(self, patch: int) -> tuple[int, int, int]:
        return 4, patch, patch
