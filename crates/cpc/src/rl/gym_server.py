"""Plays one Gymnasium environment for a parent process over stdin and stdout.

Arguments: id of the environment, height, width. Every message is a little-endian u32 with its length, then its bytes.
Requests begin with a letter: r + u64 seed (reset), s + u32 action (step), o (observe). Answers begin with k where all is
well (ready: u32 number of actions; step: f32 reward, u8 terminated, u8 truncated; observe: height*width*3 bytes) or with
e and a text.
"""

import os
import struct
import sys

# Whatever an environment prints must not get between the messages.
answers = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)


def answer(kind, body=b""):
    answers.write(struct.pack("<I", 1 + len(body)) + kind + body)
    answers.flush()


def read(count):
    data = sys.stdin.buffer.read(count)
    if len(data) < count:
        sys.exit(0)
    return data


class Player:
    def __init__(self, name, height, width):
        import gymnasium
        import numpy

        self.np, self.height, self.width = numpy, height, width
        self.env = gymnasium.make(name, render_mode="rgb_array")
        space = self.env.action_space
        if not isinstance(space, gymnasium.spaces.Discrete):
            raise TypeError(f"actions must be discrete, this environment has {space}")
        self.first, self.actions = int(space.start), int(space.n)
        seen = self.env.observation_space
        self.images = isinstance(seen, gymnasium.spaces.Box) and seen.dtype == numpy.uint8 and len(seen.shape) in (2, 3)
        self.frame = None

    def reset(self, seed):
        self.frame, _ = self.env.reset(seed=seed)

    def step(self, action):
        self.frame, reward, terminated, truncated, _ = self.env.step(self.first + action)
        return float(reward), bool(terminated), bool(truncated)

    def observe(self):
        np = self.np
        frame = np.asarray(self.frame if self.images else self.env.render())
        if frame.ndim == 2:
            frame = frame[:, :, None]
        if frame.ndim != 3 or frame.shape[2] not in (1, 3, 4) or frame.dtype != np.uint8:
            raise TypeError(f"an observation must be an image of bytes, this one is {frame.shape} {frame.dtype}")
        rows = np.arange(self.height) * frame.shape[0] // self.height
        columns = np.arange(self.width) * frame.shape[1] // self.width
        frame = frame[rows][:, columns, :3]
        return np.ascontiguousarray(np.broadcast_to(frame, (self.height, self.width, 3))).tobytes()


def main():
    name, height, width = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    player = Player(name, height, width)
    answer(b"k", struct.pack("<I", player.actions))
    while True:
        request = read(struct.unpack("<I", read(4))[0])
        kind, body = request[:1], request[1:]
        if kind == b"r":
            player.reset(struct.unpack("<Q", body)[0])
            answer(b"k")
        elif kind == b"s":
            reward, terminated, truncated = player.step(struct.unpack("<I", body)[0])
            answer(b"k", struct.pack("<fBB", reward, terminated, truncated))
        elif kind == b"o":
            answer(b"k", player.observe())
        else:
            raise ValueError(f"unknown request {kind!r}")


try:
    main()
except Exception as error:
    answer(b"e", f"{type(error).__name__}: {error}".encode())
    sys.exit(1)
