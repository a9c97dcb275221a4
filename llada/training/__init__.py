"""What a training run needs beside its loss: accumulation, devices, optimisers, schedules, callbacks."""
