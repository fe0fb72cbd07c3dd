"""Why IMP is weak on many faces."""
