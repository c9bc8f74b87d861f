"""TFLite files as edgetpu_compiler writes them: one custom operator, made without the compiler."""

import flatbuffers
from ai_edge_litert import schema_py_generated as schema
from support.edge_models import scale_model


def compiled_model(name="edgetpu-custom-op"):
    """The scale model, its one operator replaced by a custom one of that name."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(scale_model(2.0), 0))
    code = model.operatorCodes[0]
    code.builtinCode, code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM, schema.BuiltinOperator.CUSTOM
    code.customCode = name
    operator = model.subgraphs[0].operators[0]
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.NONE, None
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
