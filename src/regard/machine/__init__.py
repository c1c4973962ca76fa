"""The machine: devices, threads, processes, memory."""
