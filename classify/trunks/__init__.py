"""Trunks of classifiers that differ from plain timm models."""
