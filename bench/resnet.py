"""A small residual net on 28 x 28 pictures, one pass: the Learner beside a plain loop (`make bench`)."""
from _pictures import race_pictures

from course_lib.core import record_result
from course_lib.vision.resnet import resnet

N, BS = 1024, 512

if __name__ == "__main__":
    found = race_pictures("residual net of six stages", resnet, N, BS)
    record_result("4_vision/03_resnet", "time a picture, Learner / plain contiguous loop", round(found["course_lib Learner"], 2),
                  data=f"{N:,} pictures of 28 x 28, bs {BS}, six stages", epochs=1)
