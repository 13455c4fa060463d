"""Its choices: hydra.searchpath=[pkg://xlt_plugin.conf]."""
