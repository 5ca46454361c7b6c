/// Numbers as people read them.
public enum Format {
    /// A share from 0 to 1 as percent, rounded down, so that what is not all does not read as all.
    public static func percent(_ share: Double) -> String { fixed((share * 10_000).rounded(.down) / 100, 2) }

    /// A number with a fixed count of decimals.
    public static func fixed(_ value: Double, _ decimals: Int) -> String {
        guard value.isFinite else { return "\(value)" }
        guard abs(value) < 1e15 else { return "\(value)" }
        var factor = 1.0
        for _ in 0..<decimals { factor *= 10 }
        let scaled = (value * factor).rounded()
        let digits = String(Int(abs(scaled)))
        let padded = String(repeating: "0", count: max(0, decimals + 1 - digits.count)) + digits
        let sign = scaled < 0 ? "-" : ""
        return decimals == 0 ? sign + padded : sign + padded.dropLast(decimals) + "." + padded.suffix(decimals)
    }

    /// A whole number as it is, any other with four decimals: `2`, `0.7071`.
    public static func number(_ value: Double) -> String { fixed(value, value == value.rounded() ? 0 : 4) }

    /// A large count in few digits: `134.5 M`.
    public static func short(_ value: Int) -> String {
        let units = [(1e12, "T"), (1e9, "G"), (1e6, "M")]
        for (size, unit) in units where Double(value) >= size { return fixed(Double(value) / size, 1) + " " + unit }
        return count(value)
    }

    /// A small or large number with three significant digits.
    public static func scientific(_ value: Double) -> String {
        guard value.isFinite, value != 0 else { return "\(value)" }
        var (mantissa, exponent) = (abs(value), 0)
        while mantissa >= 9.995 { (mantissa, exponent) = (mantissa / 10, exponent + 1) }
        while mantissa < 0.9995 { (mantissa, exponent) = (mantissa * 10, exponent - 1) }
        return (value < 0 ? "-" : "") + fixed(mantissa, 2) + "e\(exponent)"
    }

    /// Bytes in decimal units.
    public static func bytes(_ count: Int) -> String {
        let units = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")]
        for (size, unit) in units where Double(count) >= size { return fixed(Double(count) / size, 2) + " " + unit }
        return "\(count) bytes"
    }

    /// A share in per cent: `66.6%`; one that is small is not nothing.
    public static func percent(_ part: Int, of whole: Int) -> String {
        let percent = whole == 0 ? 0 : 100 * Double(part) / Double(whole)
        return part > 0 && percent < 0.05 ? "<0.1%" : fixed(percent, 1) + "%"
    }

    /// A count with thousands separated.
    public static func count(_ value: Int) -> String {
        var digits = Array(String(abs(value)))
        var position = digits.count - 3
        while position > 0 {
            digits.insert(",", at: position)
            position -= 3
        }
        return (value < 0 ? "-" : "") + String(digits)
    }

    /// How many things: `1 tensor`, `1,200 tensors`.
    public static func count(_ value: Int, _ thing: String) -> String { "\(count(value)) \(thing)\(value == 1 ? "" : "s")" }

    /// A span of time: `4m 05s`.
    public static func duration(_ seconds: Double) -> String {
        let total = Int(max(0, seconds).rounded())
        if total < 60 { return "\(total)s" }
        func two(_ value: Int) -> String { value < 10 ? "0\(value)" : "\(value)" }
        return total < 3600 ? "\(total / 60)m \(two(total % 60))s" : "\(total / 3600)h \(two(total / 60 % 60))m"
    }
}
