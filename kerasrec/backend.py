"""The only place that picks Keras: checks the environment, imports tf_keras and bert4keras, sets seeds."""
import os
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import tensorflow as tf
import tf_keras as keras


def import_bert4keras():
    """bert4keras with its sub-modules imported."""
    import bert4keras
    import bert4keras.backend
    import bert4keras.layers
    import bert4keras.models
    import bert4keras.tokenizers
    return bert4keras
