"""Published methods as compositions of parts; `llada.samplers.presets` lists them by name."""
