"""The training stages of the Doge family, on TRL: tokenizer, pretrain, upcycle, sft and dpo.

python -m train.<stage> --config train/recipes/<model>/<stage>.yaml [--any_field value ...]
"""
