"""What maskcap costs beside the recipes that people would use otherwise; README.md holds the measured tables."""
