"""From rows to a model that forgot them: what `unteach forget` is made of."""
