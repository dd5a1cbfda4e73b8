"""The training stages of the Doge family, on TRL: tokenizer, pretrain, upcycle, sft, dpo, classify and reward.

python -m train.<stage> --config train/recipes/<model>/<stage>.yaml [--any_field value ...]
"""
