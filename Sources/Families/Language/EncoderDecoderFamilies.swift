/// Models with an encoder and a decoder, for text or speech.
enum EncoderDecoderFamilies {
    static let rows: [ModelFamily] = [
        ModelFamily("t5gemma2", "t5gemma2_encoder", memory: .init(["encoder.text_model encoder"], frame: .unknown)),
        // The head has a name of its own.
        ModelFamily("canary", "moonshine", "moonshine_streaming", "whisper", ties: .init(head: "proj_out")),
        ModelFamily("cohere_asr", memory: .unknown, ties: .init(head: "proj_out")),
        // Whole models have no inner model.
        ModelFamily(
            "longt5", "mt5", "pop2piano", "switch_transformers", "t5", "udop", "umt5",
            ties: .init(omitsInnerModel: true, scalesTiedHead: true)),
        ModelFamily("mimi", "vision-encoder-decoder", memory: .unknown),
        ModelFamily("mimi_encoder", memory: .init(knowsAllModules: false)),
        ModelFamily("seamless_m4t", "seamless_m4t_v2", ties: .init(omitsInnerModel: true)),
        ModelFamily("speecht5", ties: .pair("speecht5.decoder.prenet.embed_tokens", "text_decoder_postnet.lm_head")),
        ModelFamily("t5gemma", ties: .pair("model.decoder.embed_tokens", "lm_head.out_proj")),
        ModelFamily("trocr", ties: .init(head: "output_projection")),
    ]
}
