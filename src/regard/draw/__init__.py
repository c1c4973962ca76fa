"""Pictures from numbers and labels; no model."""
