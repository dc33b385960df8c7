"""Parts of a classifier's training: plan, initial network, losses, and heads on a fixed trunk."""
