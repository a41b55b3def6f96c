"""What is known and how it is scored: nouns, features, models, bundles. No web, no SQL, no training."""
