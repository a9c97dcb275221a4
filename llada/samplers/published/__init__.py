"""Published methods as compositions of parts; `llada.samplers.PRESETS` lists them by name."""
