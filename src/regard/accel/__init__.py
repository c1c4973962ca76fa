"""Faster ways for the parts of nn/: native kernels, prepared models, int8. Neither nn/ nor models/ imports accel/."""
