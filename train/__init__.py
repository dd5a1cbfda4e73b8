"""The training stages of the family on TRL: tokenizer, pretrain, upcycle, sft, dpo.

python -m train.<stage> --config train/recipes/<model>/<stage>.yaml [--any_field value ...]
"""
