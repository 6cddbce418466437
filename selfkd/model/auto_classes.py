"""Makes the auto classes of transformers load an `OmniModel` where selfkd is imported, by this package's own code
and never by that of a checkpoint. Elsewhere they load it by the code that the checkpoint carries, with
`trust_remote_code`."""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor

from selfkd.model.configuration_omni import OmniConfig
from selfkd.model.modeling_omni import OmniModel as OmniModel
from selfkd.model.processing_omni import OmniProcessor as OmniProcessor

AutoConfig.register(OmniConfig.model_type, OmniConfig)
for auto_class in (AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    auto_class.register(OmniConfig, OmniModel)
AutoProcessor.register(OmniConfig, OmniProcessor)
