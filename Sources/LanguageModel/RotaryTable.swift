internal import Kernels

#if canImport(Darwin)
    internal import Darwin
#else
    internal import Glibc
#endif

/// Cosines and sines of the rotary position embedding, [positions, head_dim/2] each.
struct RotaryTable: Sendable {
    let cosines: FloatView
    let sines: FloatView

    init(configuration: TransformerConfiguration, positions: Int) {
        let half = configuration.headDimension / 2
        let views = FloatArena(counts: [positions * half, positions * half]).views
        (cosines, sines) = (views[0], views[1])
        for i in 0..<half {
            let frequency = Self.frequency(i, configuration)
            for position in 0..<positions {
                // The angle is a product in F32, as the framework that trained the model had it.
                let angle = Float(position) * Float(frequency)
                cosines[position * half + i] = Float(cos(Double(angle)))
                sines[position * half + i] = Float(sin(Double(angle)))
            }
        }
    }

    /// The angular frequency of pair `i`: theta^(−2i/d), stretched for long wavelengths where the model asks for it
    /// (Llama 3.1: unchanged below one wavelength, divided by `factor` above another, blended between).
    private static func frequency(_ i: Int, _ configuration: TransformerConfiguration) -> Double {
        let base = 1 / pow(configuration.ropeTheta, Double(2 * i) / Double(configuration.headDimension))
        guard let scaling = configuration.ropeScaling else { return base }
        let wavelength = 2 * Double.pi / base
        let original = Double(scaling.originalPositions)
        if wavelength < original / scaling.highFrequencyFactor { return base }
        if wavelength > original / scaling.lowFrequencyFactor { return base / scaling.factor }
        let smooth = (original / wavelength - scaling.lowFrequencyFactor) / (scaling.highFrequencyFactor - scaling.lowFrequencyFactor)
        return (1 - smooth) * base / scaling.factor + smooth * base
    }
}
