"""vLLM runs an `OmniModel`: a plugin (`pip install 'selfkd[vllm]'`) that vLLM loads by its entry point
`vllm.general_plugins`.

The VLM is vLLM's own class; selfkd adds its speech encoder and its projectors, and the audio part of the processor.
The name of this package is `selfkd.vllm`; within it, `import vllm` is vLLM.
"""
