"""What makes the parts of nn/ fast: native kernels, prepared models, int8. Nothing of nn/ or models/ imports it."""
