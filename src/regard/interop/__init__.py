"""Models in the formats of other toolkits: Hugging Face's MarianMT and CTranslate2."""
