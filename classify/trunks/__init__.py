"""Trunks of classifiers that are not timm's as they are."""
